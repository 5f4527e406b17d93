"""The Python client of users' own reward functions, against a real server."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.reward.attached.attaching import SECTION, Server, a_server, reports
from tests.support.waiting import DEADLINE_SECONDS
from tppo.config.schema import RewardSection
from tppo.reward_client import AttachError, attach, reward_function
from tppo.security.service_tokens import token_for

NAMES = ("by_text", "batched", "short_batch", "blocking", "hanging", "hanging_async", "raising", "raising_async")
EVERY = SECTION.model_copy(update={"functions": {name: f"grpc:{name}" for name in NAMES}})
BY_TEXT: dict[str, Any] = {
    "number": 0.5,
    "table": {"score": 0.25, "style": 1, "note": "fine"},
    "nothing": None,
    "too much": 7.0,
    "not a number": float("nan"),
    "a text": "0.5",
    "no score": {"style": 1.0},
    "token rewards": {"score": 0.5, "token_rewards": [0.0, 0.0, 1.0]},
    "too few token rewards": {"score": 0.5, "token_rewards": [1.0]},
}


@reward_function("by_text", min_score=0.0, max_score=1.0)
def by_text(data_source: str, solution_str: str, ground_truth: str, extra_info: dict[str, Any]) -> Any:
    if solution_str == "raise":
        raise LookupError("out of luck")
    return BY_TEXT[solution_str]


@reward_function("batched", batch_size=8)
async def batched(
    data_sources: list[str], solution_strs: list[str], ground_truths: list[str], extra_infos: list[Any]
) -> list[float]:
    return [float(len(text)) for text in solution_strs]


@reward_function("short_batch", batch_size=2)
def short_batch(
    data_sources: list[str], solution_strs: list[str], ground_truths: list[str], extra_infos: list[Any]
) -> list[float]:
    return []


@reward_function("blocking", concurrency=2)
def blocking(data_source: str, solution_str: str, ground_truth: str, extra_info: dict[str, Any]) -> float:
    time.sleep(0.01)
    return 1.0


MAY_RETURN = threading.Event()
HANG_SECONDS = 2.0
ONE_LATE_CALL = EVERY.model_copy(update={"timeout_seconds": HANG_SECONDS})


@reward_function("hanging")
def hanging(data_source: str, solution_str: str, ground_truth: str, extra_info: dict[str, Any]) -> float:
    if solution_str == "hang":
        MAY_RETURN.wait(DEADLINE_SECONDS)
    return 1.0


@reward_function("hanging_async", concurrency=1)
async def hanging_async(data_source: str, solution_str: str, ground_truth: str, extra_info: dict[str, Any]) -> float:
    if solution_str == "hang":
        await asyncio.sleep(DEADLINE_SECONDS)
    return 1.0


ODD_ERRORS = {one.__name__: one for one in (StopIteration, SystemExit, asyncio.CancelledError, GeneratorExit)}


@reward_function("raising")
def raising(data_source: str, solution_str: str, ground_truth: str, extra_info: dict[str, Any]) -> float:
    if solution_str in ODD_ERRORS:
        raise ODD_ERRORS[solution_str]()
    return 1.0


@reward_function("raising_async", concurrency=1)
async def raising_async(data_source: str, solution_str: str, ground_truth: str, extra_info: dict[str, Any]) -> float:
    return raising(data_source, solution_str, ground_truth, extra_info)


async def outcome(server: Server, name: str, response: str, num_response_tokens: int = 3) -> Any:
    return await server.score("a", response, num_response_tokens, data_source=name)


@asynccontextmanager
async def attached(*servers: Server) -> AsyncIterator[None]:
    task = asyncio.create_task(attach(*(server.address for server in servers)))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("number", 0.5),
        ("table", 0.25),
        ("token rewards", 0.5),
        ("nothing", ("ABSTAINED", "")),
        ("too much", ("FAILED", "the function returned score = 7.0; expected a score from 0.0 to 1.0")),
        ("not a number", ("FAILED", "the function returned score = nan; expected a finite number")),
        ("a text", ("FAILED", "the function returned '0.5' of type str; expected a number")),
        ("no score", ("FAILED", """the function returned a table without "score": its keys are ['style']""")),
    ],
)
async def test_what_a_function_returns_reaches_the_run(response: str, expected: object) -> None:
    async with a_server(EVERY) as server, attached(server):
        assert await outcome(server, "by_text", response) == expected


async def test_what_a_function_raises_is_the_cause_with_its_place() -> None:
    async with a_server(EVERY) as server, attached(server):
        status, cause = await outcome(server, "by_text", "raise")

    assert status == "FAILED"
    assert cause.startswith("LookupError: out of luck (")
    assert cause.endswith("in by_text)")


async def test_token_rewards_of_the_wrong_count_fail() -> None:
    async with a_server(EVERY) as server, attached(server):
        status, cause = await outcome(server, "by_text", "too few token rewards")

    assert status == "FAILED"
    assert cause == "the function returned token_rewards: 1 numbers; expected 3, one for each token of the response"


async def test_a_batched_function_answers_each_response_by_itself() -> None:
    async with a_server(EVERY) as server, attached(server):
        scores = await asyncio.gather(*(outcome(server, "batched", "x" * index) for index in range(40)))

    assert scores == [float(index) for index in range(40)]


async def test_a_batch_of_the_wrong_length_fails_as_a_whole() -> None:
    async with a_server(EVERY) as server, attached(server):
        status, cause = await outcome(server, "short_batch", "x")

    assert (status, cause) == ("FAILED", "the function returned 0 scores for 1 responses")


async def test_functions_that_block_do_not_hold_up_the_others() -> None:
    async with a_server(EVERY) as server, attached(server):
        blocked = [asyncio.create_task(outcome(server, "blocking", "x")) for _ in range(20)]
        quick = await outcome(server, "by_text", "number")
        slow = await asyncio.gather(*blocked)

    assert (quick, slow) == (0.5, [1.0] * 20)


@pytest.mark.parametrize("name", ["hanging", "hanging_async"])
async def test_one_call_that_hangs_is_late_and_all_behind_it_are_scored(name: str) -> None:
    async with a_server(ONE_LATE_CALL) as server, attached(server):
        responses = ["hang", *["fine"] * 12]
        outcomes = await asyncio.gather(*(outcome(server, name, response) for response in responses))
        MAY_RETURN.set()
        status = server.parts.attached.status()

    assert outcomes == [("TIMED_OUT", "no answer within 2 s"), *[1.0] * 12]
    assert status["num_given_back"] == 0


@pytest.mark.parametrize("name", ["raising", "raising_async"])
@pytest.mark.parametrize("error", ["StopIteration", "SystemExit", "CancelledError"])
async def test_an_exception_that_ends_loops_elsewhere_fails_its_own_response_alone(name: str, error: str) -> None:
    async with a_server(EVERY) as server, attached(server):
        status, cause = await outcome(server, name, error)
        score = await outcome(server, name, "fine")

    assert status == "FAILED"
    assert error in cause
    assert score == 1.0


async def test_one_process_serves_several_services() -> None:
    async with a_server(EVERY) as one, a_server(EVERY) as other, attached(one, other):
        scores = [await outcome(one, "by_text", "number"), await outcome(other, "by_text", "table")]

    assert scores == [0.5, 0.25]


async def test_a_process_attaches_again_to_a_service_that_was_away() -> None:
    async with a_server(EVERY) as server:
        section: RewardSection = EVERY.model_copy(update={"port": int(server.address.rpartition(":")[2])})
        client = asyncio.create_task(attach(server.address))
        await outcome(server, "by_text", "number")
    async with a_server(section) as server:
        score = await outcome(server, "by_text", "table")
        client.cancel()
        await asyncio.wait([client])

    assert score == 0.25


async def test_a_process_finds_the_token_of_a_service_of_the_same_user() -> None:
    async with a_server(EVERY, token="a-token-of-some-length") as server, attached(server):
        assert await outcome(server, "by_text", "number") == 0.5


async def test_a_process_takes_the_token_of_the_service_that_listens_now(monkeypatch: pytest.MonkeyPatch) -> None:
    outdated, brought = ["the-token-of-an-earlier-service"], []

    def looked_up(address: str) -> str:
        brought.append(outdated.pop() if outdated else token_for(address))
        return brought[-1]

    monkeypatch.setattr("tppo.reward_client.token_for", looked_up)
    async with a_server(EVERY, token="a-token-of-some-length") as server, attached(server):
        assert await outcome(server, "by_text", "number") == 0.5
    assert [brought[0], brought[-1]] == ["the-token-of-an-earlier-service", "a-token-of-some-length"]


async def test_a_wrong_token_is_not_retried() -> None:
    async with a_server(EVERY, token="a-token-of-some-length") as server:
        with pytest.raises(AttachError, match=r"UNAUTHENTICATED: expected this service's bearer token; see docs"):
            await attach(server.address, token="wrong")


async def test_a_service_of_another_run_is_not_retried() -> None:
    async with a_server(EVERY) as server:
        with pytest.raises(AttachError, match="offered to run 'yours'; this service scores 'r1'"):
            await attach(server.address, run="yours")


async def test_a_process_that_ends_leaves_nothing_behind() -> None:
    async with a_server(EVERY) as server:
        async with attached(server):
            await outcome(server, "by_text", "number")
        await reports(server, "processes", [])
        assert server.parts.attached.status()["processes"] == []


def test_a_function_of_another_signature_is_refused_when_it_is_offered() -> None:
    with pytest.raises(ValueError, match="expected the parameters data_source, solution_str, ground_truth, extra_info"):
        reward_function("wrong")(lambda text: 1.0)


def test_a_range_without_a_number_in_it_is_refused_when_it_is_offered() -> None:
    with pytest.raises(ValueError, match=r"range from 1\.0 to 0\.0; expected min_score <= max_score"):
        reward_function("wrong", min_score=1.0, max_score=0.0)
