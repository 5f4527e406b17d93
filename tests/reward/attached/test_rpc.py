"""Scores by request, against a real server."""

import asyncio

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.reward.attached.rpc import MAX_WAITING, SERVICE_NAME
from tests.reward.attached.attaching import SCORED, Process, a_server, reports
from tests.support.waiting import DEADLINE_SECONDS
from tppo.v1 import reward_pb2 as pb
from tppo.v1 import rollout_pb2


def request(rollout_id: str, response: str, data_source: str = "sums") -> rollout_pb2.RewardRequest:
    return rollout_pb2.RewardRequest(
        rollout_id=rollout_id, data_source=data_source, response=response, ground_truth="4", extra_info="{}"
    )


async def test_a_batch_is_scored_in_its_order() -> None:
    async with a_server() as server:
        batch = pb.ScoreRequest(requests=[request("a", "# 4"), request("b", "# 5"), request("c", "# 4")])
        answer = await server.stub.Score(batch, timeout=DEADLINE_SECONDS)

    assert [(score.rollout_id, score.status, score.score, score.function) for score in answer.scores] == [
        ("a", SCORED, 1.0, "exact"),
        ("b", SCORED, 0.0, "exact"),
        ("c", SCORED, 1.0, "exact"),
    ]


async def test_an_attached_function_may_be_requested_by_its_name() -> None:
    async with a_server() as server:
        process = await Process(server).offer()
        asking = server.stub.Score(
            pb.ScoreRequest(requests=[request("a", "four")], function="grpc:mine"), timeout=DEADLINE_SECONDS
        )
        await process.answer(await process.work(), 0.5)
        answer = await asking

    assert [(score.function, score.score) for score in answer.scores] == [("grpc:mine", 0.5)]


async def test_a_function_that_the_configuration_does_not_name_is_refused() -> None:
    async with a_server() as server:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await server.stub.Score(pb.ScoreRequest(function="/etc/passwd.py:main"), timeout=DEADLINE_SECONDS)

    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "expected exact, grpc:mine" in (caught.value.details() or "")


async def test_too_much_at_once_is_refused_and_what_waits_is_scored() -> None:
    async with a_server() as server:
        waiting = asyncio.ensure_future(
            server.stub.Score(
                pb.ScoreRequest(requests=[request("a", "", data_source="mine")]), timeout=DEADLINE_SECONDS
            )
        )
        await reports(server, "num_waiting", {"mine": 1})
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await server.stub.Score(
                pb.ScoreRequest(requests=[request("b", "")] * MAX_WAITING), timeout=DEADLINE_SECONDS
            )
        process = await Process(server).offer()
        await process.answer(await process.work(), 1.0)
        answer = await waiting

    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert answer.scores[0].score == 1.0


async def test_the_health_check_answers() -> None:
    async with a_server() as server, grpc.aio.insecure_channel(server.address) as channel:
        question = health_pb2.HealthCheckRequest(service=SERVICE_NAME)
        answer = await health_pb2_grpc.HealthStub(channel).Check(question, timeout=DEADLINE_SECONDS)

    assert answer.status == health_pb2.HealthCheckResponse.SERVING
