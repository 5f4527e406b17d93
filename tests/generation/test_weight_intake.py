"""Weight transfers over a real gRPC server, into a fake engine."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc
import grpc.aio
import pytest
import torch
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from services.generation.build import weight_server
from services.generation.served_weights import ServedWeights
from services.generation.weight_intake import WeightIntake
from tests.generation.fake_engine import FakeEngine
from tests.support.waiting import DEADLINE_SECONDS
from tppo.announced_weights import AnnouncedWeights
from tppo.config import ConfigError
from tppo.config.services import GenerationSection
from tppo.models.probe import ProbeError
from tppo.security.authentication import call_metadata
from tppo.streams import StreamsUnavailable
from tppo.v1 import generation_pb2 as pb
from tppo.v1 import generation_pb2_grpc as pb_grpc
from tppo.weights import WeightUpdate, digest
from tppo.weights.messages import to_messages

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(5, dtype=torch.bfloat16)}
DIGEST = digest(TENSORS)


@dataclass
class Running:
    """A server, its engine, and a client's view of it."""

    engine: FakeEngine
    channel: grpc.aio.Channel
    stub: "pb_grpc.GenerationServiceAsyncStub"  # of the type stubs only

    async def send(
        self, messages: "Iterator[pb.UpdateWeightsRequest] | AsyncIterator[pb.UpdateWeightsRequest]"
    ) -> pb.UpdateWeightsResponse:
        return await self.stub.UpdateWeights(messages, timeout=DEADLINE_SECONDS)


FAR_AHEAD = AnnouncedWeights(100, 0, "of later weights")


def announcing(weights: AnnouncedWeights | None = FAR_AHEAD) -> Callable[[], Awaitable[AnnouncedWeights | None]]:
    async def announced() -> AnnouncedWeights | None:
        return weights

    return announced


@asynccontextmanager
async def a_generator(
    *,
    message_seconds: float = 10.0,
    token: str = "",
    announced: Callable[[], Awaitable[AnnouncedWeights | None]] | None = None,
) -> AsyncIterator[Running]:
    engine = FakeEngine(policy_version=-1)
    intake = WeightIntake(
        ServedWeights(engine), announced or announcing(), run="mine", name="g0", message_seconds=message_seconds
    )
    async with (
        weight_server(intake, GenerationSection(), token=token) as address,
        grpc.aio.insecure_channel(address) as channel,
    ):
        yield Running(engine, channel, pb_grpc.GenerationServiceStub(channel))


def transfer(
    policy_version: int = 1, *, incarnation: int = 0, run: str = "mine", chunk_bytes: int = 8
) -> Iterator[pb.UpdateWeightsRequest]:
    return to_messages(
        TENSORS,
        run=run,
        policy_version=policy_version,
        incarnation=incarnation,
        chunk_bytes=chunk_bytes,
        known_digest=DIGEST,
    )


async def refusal(generator: Running, messages: Iterator[pb.UpdateWeightsRequest]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await generator.send(messages)
    return raised.value.code(), raised.value.details() or ""


async def test_a_transfer_reaches_the_engine_whole() -> None:
    async with a_generator() as generator:
        response = await generator.send(transfer(4, incarnation=2))
        (update,) = generator.engine.updates

    assert (response.policy_version, response.incarnation, response.digest) == (4, 2, DIGEST)
    assert update.tensors.keys() == TENSORS.keys()
    assert all(torch.equal(update.tensors[name], tensor) for name, tensor in TENSORS.items())


async def test_weights_of_another_run_are_refused() -> None:
    async with a_generator() as generator:
        code, details = await refusal(generator, transfer(run="yours"))

    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert "run 'yours'; g0 serves 'mine'" in details


@pytest.mark.parametrize(
    ("incarnation", "policy_version", "is_taken"),
    [(1, 5, True), (1, 6, True), (2, 0, True), (1, 4, False), (0, 9, False)],
    ids=["the same again", "newer", "a later incarnation", "older", "an earlier incarnation"],
)
async def test_only_weights_at_least_as_new_are_taken(incarnation: int, policy_version: int, is_taken: bool) -> None:
    async with a_generator() as generator:
        await generator.send(transfer(5, incarnation=1))
        messages = transfer(policy_version, incarnation=incarnation)
        if is_taken:
            assert (await generator.send(messages)).policy_version == policy_version
        else:
            code, details = await refusal(generator, messages)
            assert code is grpc.StatusCode.FAILED_PRECONDITION
            assert "older" in details
            assert generator.engine.policy_version == 5


@pytest.mark.parametrize(
    ("announced", "complaint"),
    [
        (None, "was not announced by the learner; its newest is None"),
        (AnnouncedWeights(1, 6, DIGEST), "policy_version=1000000) was not announced by the learner"),
        (AnnouncedWeights(1, 10**6, "sha256:d1ffe4e47"), "announced was sha256:d1ffe4e47"),
    ],
    ids=["nothing announced", "an earlier version announced", "other weights announced"],
)
async def test_weights_that_the_learner_has_not_announced_are_refused(
    announced: AnnouncedWeights | None, complaint: str
) -> None:
    async with a_generator(announced=announcing(announced)) as generator:
        code, details = await refusal(generator, transfer(10**6, incarnation=1))

        assert code is grpc.StatusCode.FAILED_PRECONDITION
        assert complaint in details
        assert generator.engine.updates == []


async def test_announced_weights_are_taken() -> None:
    async with a_generator(announced=announcing(AnnouncedWeights(1, 6, DIGEST))) as generator:
        assert (await generator.send(transfer(5, incarnation=1))).policy_version == 5
        assert (await generator.send(transfer(6, incarnation=1))).policy_version == 6


async def test_a_transfer_fails_while_nobody_knows_what_was_announced() -> None:
    async def unavailable() -> AnnouncedWeights | None:
        raise StreamsUnavailable("connection refused")

    async with a_generator(announced=unavailable) as generator:
        answer = await refusal(generator, transfer())

    assert answer == (grpc.StatusCode.UNAVAILABLE, "whether the weights were announced: connection refused")


async def test_an_incomplete_transfer_changes_nothing() -> None:
    async with a_generator() as generator:
        code, details = await refusal(generator, iter(list(transfer())[:-1]))

        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert "short of its manifest" in details
        assert generator.engine.updates == []


async def test_bytes_that_were_changed_on_the_way_are_noticed() -> None:
    messages = list(transfer())
    messages[1].chunk = bytes(len(messages[1].chunk))[:-1] + b"\x01"

    async with a_generator() as generator:
        code, details = await refusal(generator, iter(messages))

        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert "digest" in details
        assert generator.engine.updates == []


async def test_weights_that_do_not_fit_the_model_are_an_invalid_argument() -> None:
    async with a_generator() as generator:
        generator.engine.failure = ValueError("weights do not fit the model: 1 missing (c)")
        answer = await refusal(generator, transfer())

    assert answer == (grpc.StatusCode.INVALID_ARGUMENT, "weights do not fit the model: 1 missing (c)")


async def test_a_transfer_without_messages_ends_at_the_deadline() -> None:
    async def standing_still() -> AsyncIterator[pb.UpdateWeightsRequest]:
        yield next(transfer())
        await asyncio.Event().wait()

    async with a_generator(message_seconds=1) as generator:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await generator.send(standing_still())

        assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert "no message of the transfer for 1 s" in (raised.value.details() or "")
        await generator.send(transfer())
        assert len(generator.engine.updates) == 1


async def test_a_chunk_may_be_larger_than_the_default_limit_of_4_mib() -> None:
    tensors = {"large": torch.zeros(2 * 2**20)}
    known = await asyncio.to_thread(digest, tensors)
    messages = to_messages(
        tensors, run="mine", policy_version=1, incarnation=0, chunk_bytes=8 * 2**20, known_digest=known
    )

    async with a_generator() as generator:
        response = await generator.send(messages)

    assert response.digest == known


async def test_the_token_is_demanded_of_every_transfer() -> None:
    async with a_generator(token="correct horse") as generator:
        code, _ = await refusal(generator, transfer())
        response = await generator.stub.UpdateWeights(
            transfer(), timeout=DEADLINE_SECONDS, metadata=call_metadata("correct horse")
        )

    assert code is grpc.StatusCode.UNAUTHENTICATED
    assert response.policy_version == 1


@pytest.mark.parametrize("service", ["", "tppo.v1.GenerationService"])
async def test_the_health_check_answers(service: str) -> None:
    async with a_generator() as generator:
        stub = health_pb2_grpc.HealthStub(generator.channel)
        answer = await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=DEADLINE_SECONDS)

    assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_reflection_lists_the_service() -> None:
    async with a_generator() as generator:
        stub = reflection_pb2_grpc.ServerReflectionStub(generator.channel)
        question = reflection_pb2.ServerReflectionRequest(list_services="")
        answers = [answer async for answer in stub.ServerReflectionInfo(iter([question]), timeout=DEADLINE_SECONDS)]

    assert "tppo.v1.GenerationService" in {one.name for one in answers[0].list_services_response.service}


async def test_a_port_that_is_taken_is_a_configuration_error() -> None:
    engine = FakeEngine()
    intake = WeightIntake(ServedWeights(engine), announcing(), run="mine", name="g0")
    async with weight_server(intake, GenerationSection(), token="") as address:
        port = int(address.rpartition(":")[2])
        with pytest.raises(ConfigError, match=f"generation.port = {port}: cannot listen on 127.0.0.1"):
            await weight_server(intake, GenerationSection(port=port), token="").__aenter__()


async def test_an_engine_that_is_proven_wrong_ends_the_generator() -> None:
    engine = FakeEngine(policy_version=-1)
    engine.failure = ProbeError("the engine differs by 3 nats")
    weights, ended = ServedWeights(engine), list[str]()
    weights.on_refusal = lambda: ended.append("worker")

    with pytest.raises(ProbeError):
        await weights.take(WeightUpdate(1, incarnation=0, digest="", tensors={}))

    assert (weights.refusal, ended) == (engine.failure, ["worker"])
