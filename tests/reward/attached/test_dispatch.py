"""Functions that users' own processes offer, against a real server."""

import asyncio
import dataclasses
import math
from typing import Any

import grpc
import grpc.aio
import pytest

from services.reward.attached.attachment import Attachment, Piece
from services.reward.attached.dispatch import MAX_WORK_BYTES
from services.reward.attached.offer import CallStart, Offer
from tests.reward.attached.attaching import SECTION, Process, a_server, reports
from tppo.process.grpc_server import MAX_MESSAGE_BYTES
from tppo.rollout import RewardRequest
from tppo.scoring.outcome import ScoreRange
from tppo.security.authentication import call_metadata
from tppo.v1 import reward_pb2 as pb
from tppo.v1 import reward_pb2_grpc as pb_grpc
from tppo.v1 import rollout_pb2

ONE_LATE_CALL = SECTION.model_copy(update={"timeout_seconds": 2.0})
SHORT_DEADLINES = SECTION.model_copy(update={"timeout_seconds": 0.05, "attach_wait_seconds": 0.05})


async def test_an_attached_process_scores_what_the_configuration_gives_to_its_name() -> None:
    async with a_server() as server:
        process = await Process(server).offer("mine")
        scoring = asyncio.create_task(server.score("a", "four"))
        work = await process.work()
        await process.answer(work, 0.75, components={"style": 0.5})
        score = await scoring

    assert (work.function, work.request.response, work.request.ground_truth) == ("mine", "four", "4")
    assert score == 0.75


async def test_a_process_gets_no_more_than_it_has_room_for_until_it_answers() -> None:
    async with a_server() as server:
        process = await Process(server).offer(max_held=2)
        scoring = [asyncio.create_task(server.score(name)) for name in "abc"]
        first, second = await process.work(), await process.work()
        await reports(server, "num_waiting", {"mine": 1})
        await process.answer(first, 1.0)
        third = await process.work()
        await process.answer(second, 2.0)
        await process.answer(third, 3.0)
        scores = await asyncio.gather(*scoring)

    assert scores == [1.0, 2.0, 3.0]


async def test_several_processes_share_the_load() -> None:
    async with a_server() as server:
        processes = [await Process(server).offer(max_held=4) for _ in range(2)]
        scoring = [asyncio.create_task(server.score(str(index))) for index in range(4)]
        for process in processes:
            for _ in range(2):
                await process.answer(await process.work(), 1.0)
        scores = await asyncio.gather(*scoring)

    assert scores == [1.0] * 4


async def test_the_work_of_a_process_that_disconnects_goes_to_another() -> None:
    async with a_server() as server:
        leaving = await Process(server).offer()
        scoring = asyncio.create_task(server.score("a"))
        await leaving.work()
        leaving.leave()
        staying = await Process(server).offer()
        await staying.answer(await staying.work(), 0.5)
        score = await scoring
        status = server.parts.attached.status()

    assert score == 0.5
    assert status["num_given_back"] == 1


async def test_a_response_that_ends_three_processes_fails() -> None:
    async with a_server() as server:
        scoring = asyncio.create_task(server.score("a"))
        for _ in range(3):
            process = await Process(server).offer()
            await process.work()
            process.leave()
        outcome = await scoring

    assert outcome == ("FAILED", "3 processes disconnected while they held it")


async def test_a_name_that_no_process_offers_waits_and_then_fails_with_the_name() -> None:
    async with a_server(SHORT_DEADLINES) as server:
        await Process(server).offer("another")
        outcome = await server.score("a")

    assert outcome == ("FAILED", "no process offers 'mine'; none attached within 0.05 s")


async def test_work_that_waits_for_a_process_is_given_to_the_one_that_comes() -> None:
    async with a_server() as server:
        scoring = asyncio.create_task(server.score("a"))
        await reports(server, "offered_by_nobody", ["mine"])
        process = await Process(server).offer()
        await process.answer(await process.work(), 1.0)
        score = await scoring
        status = server.parts.attached.status()

    assert score == 1.0
    assert status["offered_by_nobody"] == []


async def test_an_answer_after_the_deadline_is_ignored_and_counted() -> None:
    async with a_server(SHORT_DEADLINES) as server:
        process = await Process(server).offer(max_held=2)
        outcome = await server.score("a")
        await process.answer(await process.work(), 1.0)
        await reports(server, "num_late", 1)

    assert outcome == ("TIMED_OUT", "no answer within 0.05 s")


async def test_a_process_that_answers_nothing_in_time_is_disconnected() -> None:
    async with a_server(SHORT_DEADLINES) as server:
        process = await Process(server).offer(max_held=1)
        await server.score("a")
        code, details = await process.refusal()

    assert code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert details == "none of the 1 pieces held was answered in time"


async def test_the_deadline_counts_from_the_start_of_the_call() -> None:
    async with a_server(ONE_LATE_CALL) as server:
        process = await Process(server).offer(reports_starts=True)
        hanging, behind = (asyncio.create_task(server.score(name)) for name in ("hangs", "behind"))
        first, second = await process.work(), await process.work()
        await process.start(first)
        outcome = await hanging
        await process.start(second)
        await process.answer(second, 1.0)
        score = await behind

    assert outcome == ("TIMED_OUT", "no answer within 2 s")
    assert score == 1.0


async def test_work_of_a_process_that_starts_no_call_is_late_after_two_deadlines() -> None:
    async with a_server(SHORT_DEADLINES) as server:
        process = await Process(server).offer("mine", "another", reports_starts=True, max_held=1)
        outcome = await server.score("a")
        code, _ = await process.refusal()

    cause = "its process has started no call of 'mine' for 0.1 s: all of them hang"
    assert outcome == ("TIMED_OUT", cause)
    assert code is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_calls_for_other_services_keep_waiting_work_alive() -> None:
    async with a_server(ONE_LATE_CALL) as server:
        process = await Process(server).offer(reports_starts=True)
        scoring = asyncio.create_task(server.score("a"))
        work = await process.work()
        for _ in range(5):  # beyond two deadlines in all
            await asyncio.sleep(1.0)
            await process.start()
        await process.start(work)
        await process.answer(work, 1.0)
        score = await scoring

    assert score == 1.0


async def test_a_call_that_its_process_has_given_up_is_late() -> None:
    async with a_server() as server:
        process = await Process(server).offer(reports_starts=True)
        scoring = asyncio.create_task(server.score("a"))
        work = await process.work()
        await process.start(work)
        late = rollout_pb2.SCORE_STATUS_TIMED_OUT
        await process.send(
            {"lease_id": work.lease_id, "rollout_id": "a", "status": late, "error": "no answer within 3 s"}
        )
        outcome = await scoring

    assert outcome == ("TIMED_OUT", "no answer within 3 s")


async def test_a_start_that_is_reported_twice_moves_no_deadline() -> None:
    attachment = Attachment(Offer({"mine": ScoreRange()}, max_held=1, reports_starts=True))
    outcome = asyncio.get_running_loop().create_future()
    piece = Piece("mine", RewardRequest("a", 0, "mine", "", "", ""), outcome)
    attachment.give(piece)

    first = attachment.take_start(CallStart("mine", [1]))
    started_at = piece.held_since
    second = attachment.take_start(CallStart("mine", [1]))

    assert (first, second) == ([piece], [])
    assert piece.held_since == started_at


@pytest.mark.parametrize(
    ("function", "reports_starts", "lease_ids", "reason"),
    [
        ("mine", False, [], "a start of 'mine', which was not offered with reports_starts"),
        ("another", True, [], "a start of 'another', which was not offered with reports_starts"),
        ("mine", True, [77], "lease 77 was never given to this process"),
    ],
)
async def test_an_invalid_start_is_refused(
    function: str, reports_starts: bool, lease_ids: list[int], reason: str
) -> None:
    async with a_server() as server:
        process = await Process(server).offer(reports_starts=reports_starts)
        await process.start(*(pb.Work(lease_id=lease_id) for lease_id in lease_ids), function=function)
        code, details = await process.refusal()
        status = server.parts.attached.status()

    assert (code, details) == (grpc.StatusCode.INVALID_ARGUMENT, reason)
    assert status["num_refused"] == 1


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"score": math.nan}, "score = nan; expected a finite number"),
        ({"score": math.inf}, "score = inf; expected a finite number"),
        ({"score": 1.5}, "score = 1.5; expected a score from 0.0 to 1.0"),
        ({"components": {"style": math.nan}}, "style = nan; expected a finite number"),
        ({"token_rewards": bytes(4)}, "token_rewards of 4 bytes; expected 12"),
        ({"status": rollout_pb2.SCORE_STATUS_FAILED}, "status FAILED with score 1.0"),
        ({"status": rollout_pb2.SCORE_STATUS_TIMED_OUT}, "status TIMED_OUT with score 1.0"),
        ({"status": 99}, "expected SCORED, ABSTAINED, FAILED or TIMED_OUT"),
    ],
)
async def test_an_invalid_value_is_refused_and_fails_its_response(fields: dict[str, Any], reason: str) -> None:
    async with a_server() as server:
        process = await Process(server).offer(bounds=(0.0, 1.0))
        scoring = asyncio.create_task(server.score("a", num_response_tokens=3))
        await process.answer(await process.work(), **{"score": 1.0, **fields})
        code, details = await process.refusal()
        outcome = await scoring
        status = server.parts.attached.status()

    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert reason in details
    assert outcome == ("FAILED", f"refused: {details}")
    assert status["num_refused"] == 1


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"rollout_id": "another"}, "is not for rollout 'another'"),
        ({"lease_id": 77}, "lease 77 was never given to this process"),
        ({"lease_id": 0}, "lease 0 was never given to this process"),
    ],
)
async def test_an_answer_to_work_that_was_not_sent_is_refused_and_the_work_goes_to_another(
    fields: dict[str, Any], reason: str
) -> None:
    async with a_server() as server:
        process = await Process(server).offer()
        scoring = asyncio.create_task(server.score("a"))
        await process.answer(await process.work(), 1.0, **fields)
        code, details = await process.refusal()
        another = await Process(server).offer()
        await another.answer(await another.work(), 0.25)
        score = await scoring

    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert reason in details
    assert score == 0.25


async def test_token_rewards_of_the_right_length_are_taken() -> None:
    async with a_server() as server:
        process = await Process(server).offer()
        scoring = asyncio.create_task(server.score("a", num_response_tokens=3))
        await process.answer(await process.work(), 1.0, token_rewards=bytes(12))
        score = await scoring

    assert score == 1.0


@pytest.mark.parametrize(
    ("offer", "code", "reason"),
    [
        ({"max_held": 0}, "INVALID_ARGUMENT", "max_held = 0"),
        ({"names": ["no spaces"]}, "INVALID_ARGUMENT", "function 'no spaces'"),
        ({"bounds": (1.0, 0.0)}, "INVALID_ARGUMENT", "expected min_score <= max_score"),
        ({"run": "yours"}, "FAILED_PRECONDITION", "offered to run 'yours'; this service scores 'r1'"),
    ],
)
async def test_an_invalid_offer_is_refused(offer: dict[str, Any], code: str, reason: str) -> None:
    async with a_server() as server:
        with pytest.raises(grpc.aio.AioRpcError, match=code) as caught:
            await Process(server).offer(*offer.pop("names", ()), **offer)

    assert reason in str(caught.value)


async def test_results_before_the_offer_are_refused() -> None:
    async with a_server() as server:
        process = Process(server)
        await process.send({"lease_id": 1})
        code, details = await process.refusal()

    assert (code, details) == (grpc.StatusCode.INVALID_ARGUMENT, "expected an offer as the first message")


async def test_a_request_beyond_the_size_of_a_message_fails_and_the_next_is_scored() -> None:
    async with a_server() as server:
        process = await Process(server).offer()
        outcome = await server.score("big", "x" * (MAX_WORK_BYTES + 1))
        scoring = asyncio.create_task(server.score("largest that fits", "x" * (MAX_WORK_BYTES - 100)))
        await process.answer(await process.work(), 1.0)
        score = await scoring

    assert isinstance(outcome, tuple)
    assert outcome[0] == "FAILED"
    assert score == 1.0


async def test_an_answer_beyond_the_size_of_a_message_ends_the_stream_and_the_work_goes_to_another() -> None:
    async with a_server() as server, grpc.aio.insecure_channel(server.address) as without_limits:
        careless = dataclasses.replace(server, stub=pb_grpc.RewardServiceStub(without_limits))
        process = await Process(careless).offer()
        scoring = asyncio.create_task(server.score("a"))
        await process.answer(await process.work(), 1.0, error="x" * (MAX_MESSAGE_BYTES + 1))
        code, _ = await process.refusal()
        another = await Process(server).offer()
        await another.answer(await another.work(), 0.25)
        score = await scoring

    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert score == 0.25


async def test_a_weighted_sum_takes_an_attached_function_beside_a_built_in() -> None:
    section = SECTION.model_copy(update={"functions": {"mine": 'exact + 0.5*"grpc:judge"'}})
    async with a_server(section) as server:
        process = await Process(server).offer("judge")
        scoring = asyncio.create_task(server.score("a", "it is # 4"))
        await process.answer(await process.work(), 0.5)
        score = await scoring

    assert score == 1.25


async def test_an_attached_function_alone_may_carry_a_weight() -> None:
    section = SECTION.model_copy(update={"functions": {"mine": '2*"grpc:judge"'}})
    async with a_server(section) as server:
        process = await Process(server).offer("judge")
        scoring = asyncio.create_task(server.score("a"))
        await process.answer(await process.work(), 0.5)
        score = await scoring

    assert score == 1.0


async def test_a_number_in_the_sum_of_an_attached_function_shifts_its_score() -> None:
    section = SECTION.model_copy(update={"functions": {"mine": '2*"grpc:judge" - 1'}})
    async with a_server(section) as server:
        process = await Process(server).offer("judge")
        scoring = asyncio.create_task(server.score("a"))
        await process.answer(await process.work(), 0.25)
        score = await scoring

    assert score == -0.5


async def test_a_cancelled_request_leaves_no_work_behind() -> None:
    async with a_server() as server:
        scoring = asyncio.create_task(server.score("a"))
        await reports(server, "num_waiting", {"mine": 1})
        scoring.cancel()
        await asyncio.wait([scoring])
        process = await Process(server).offer()
        next_scoring = asyncio.create_task(server.score("b"))
        work = await process.work()
        await process.answer(work, 1.0)
        await next_scoring

    assert work.request.rollout_id == "b"


async def test_a_process_attaches_with_the_bearer_token_only() -> None:
    async with a_server(token="correct horse") as server:
        with pytest.raises(grpc.aio.AioRpcError, match="UNAUTHENTICATED"):
            await Process(server).offer()
        await Process(server, metadata=call_metadata("correct horse")).offer()
