"""Asynchronous functions: many calls at once in one worker, each with its own deadline and its own outcome."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from services.reward.build import scoring
from tests.reward.workers.pools import pool_of
from tppo.config.schema import RewardSection
from tppo.rollout import RewardRequest, ScoreStatus

FUNCTIONS = """
import asyncio, os, time

under_way, most = 0, 0

async def meets(data_source, solution_str, ground_truth, extra_info):
    '''Waits until so many calls are under way as the ground truth says.'''
    global under_way, most
    under_way += 1
    most = max(most, under_way)
    while most < int(ground_truth):
        await asyncio.sleep(0.01)
    under_way -= 1
    return {"score": 1.0, "most": most}

async def judged(data_source, solution_str, ground_truth, extra_info):
    if solution_str == "hangs":
        await asyncio.sleep(1000)
    if solution_str == "swallows its cancellation":
        try:
            await asyncio.sleep(1000)
        except BaseException:
            return 0.0
    if solution_str == "is cancelled":
        raise asyncio.CancelledError
    if solution_str == "raises":
        raise ConnectionError("the judge is away")
    if solution_str == "times out inside":
        async with asyncio.timeout(0):
            await asyncio.sleep(1)
    if solution_str == "exits":
        os._exit(3)
    if solution_str == "blocks":
        time.sleep(1000)
    await asyncio.sleep(0.05)
    return float(solution_str)

class Judge:
    async def __call__(self, data_source, solution_str, ground_truth, extra_info):
        return await meets(data_source, solution_str, ground_truth, extra_info)

judge = Judge()

def blocking(data_source, solution_str, ground_truth, extra_info):
    return os.getpid()

async def trl(completions, ground_truth, **columns):
    return [(await meets("", "", ground_truth[0], {}))["score"]]
"""


def request(response: str, ground_truth: str = "") -> RewardRequest:
    return RewardRequest(response, 0, "mine", "2+2?", response, ground_truth)


@pytest.mark.parametrize("name", ["meets", "judge", "trl"])
async def test_as_many_calls_run_at_once_as_configured_and_no_more(spec: Callable[[str], str], name: str) -> None:
    async with pool_of(spec(name), spec("meets"), concurrency=8) as pool:
        outcomes = await asyncio.gather(*(pool.outcome(spec(name), request("", "8")) for _ in range(24)))
        most = await pool.outcome(spec("meets"), request("", "1"))

    assert [one.score for one in outcomes] == [1.0] * 24
    assert most.components == {"most": 8.0}


@pytest.mark.slow
async def test_256_calls_of_a_judge_of_one_second_take_under_ten(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(
        "import asyncio\nasync def judge(**columns):\n    await asyncio.sleep(1)\n    return 1.0\n"
    )
    function = f"{tmp_path}/slow.py:judge"
    async with pool_of(function) as pool:
        started_at = time.monotonic()
        outcomes = await asyncio.gather(*(pool.outcome(function, request(str(number))) for number in range(256)))
        seconds = time.monotonic() - started_at

    assert [one.score for one in outcomes] == [1.0] * 256
    assert seconds < 10


@pytest.mark.parametrize(
    ("response", "status", "error"),
    [
        ("hangs", ScoreStatus.TIMED_OUT, "no answer within 2 s"),
        ("swallows its cancellation", ScoreStatus.TIMED_OUT, "no answer within 2 s"),
        ("is cancelled", ScoreStatus.FAILED, "the call was cancelled by the function's own code"),
        ("raises", ScoreStatus.FAILED, "ConnectionError: the judge is away"),
        ("times out inside", ScoreStatus.FAILED, "TimeoutError"),
    ],
)
async def test_a_call_without_a_score_is_never_a_zero_and_harms_no_other(
    spec: Callable[[str], str], response: str, status: ScoreStatus, error: str
) -> None:
    async with pool_of(spec("judged"), timeout_seconds=2) as pool:
        bad, *good = await asyncio.gather(
            *(pool.outcome(spec("judged"), request(one)) for one in (response, "0.25", "0.75"))
        )

    assert (bad.status, bad.score, bad.error[: len(error)]) == (status, None, error)
    assert [one.score for one in good] == [0.25, 0.75]


@pytest.mark.parametrize(
    ("response", "status", "error"),
    [
        ("exits", ScoreStatus.FAILED, "the worker exited with code 3"),
        ("blocks", ScoreStatus.TIMED_OUT, "no answer within 2 s"),
    ],
)
async def test_what_takes_the_worker_down_fails_alone_and_the_others_get_their_scores(
    spec: Callable[[str], str], response: str, status: ScoreStatus, error: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.reward.workers.concurrent_lane.ANSWER_SECONDS", 0.5)
    async with pool_of(spec("judged"), timeout_seconds=2) as pool:
        bad, *good = await asyncio.gather(
            *(pool.outcome(spec("judged"), request(one)) for one in (response, "0.25", "0.5", "0.75"))
        )
        after = await pool.outcome(spec("judged"), request("1.0"))

    assert (bad.status, bad.score, bad.error) == (status, None, error)
    assert [one.score for one in good] == [0.25, 0.5, 0.75]
    assert after.score == 1.0


async def test_a_function_that_blocks_runs_beside_them_in_a_worker_of_its_own(spec: Callable[[str], str]) -> None:
    async with pool_of(spec("meets"), spec("blocking")) as pool:
        waiting = asyncio.create_task(pool.outcome(spec("meets"), request("", "2")))
        blocking = [await pool.outcome(spec("blocking"), request("")) for _ in range(2)]
        assert not waiting.done()
        await pool.outcome(spec("meets"), request("", "2"))
        met = await waiting

    assert blocking[0].score == blocking[1].score
    assert met.score == 1.0
    assert pool.asynchronous == {spec("meets")}


async def test_a_call_that_its_caller_gives_up_makes_room_in_the_worker(spec: Callable[[str], str]) -> None:
    async with pool_of(spec("judged"), spec("meets"), concurrency=1) as pool:
        given_up = asyncio.create_task(pool.outcome(spec("judged"), request("hangs")))
        await asyncio.sleep(0.05)
        given_up.cancel()
        with pytest.raises(asyncio.CancelledError):
            await given_up

        assert (await pool.outcome(spec("judged"), request("0.5"))).score == 0.5


async def test_in_a_sum_each_term_is_a_call_of_its_own(spec: Callable[[str], str]) -> None:
    section = RewardSection(default_function=f'2*"{spec("meets")}" + 0.5*math - 1')

    async with scoring(section) as parts:
        scores = await asyncio.gather(
            *(parts.scorer.score(replace(request(r"\boxed{2}", "2"), rollout_id=name)) for name in "ab")
        )

    assert [(one.score, one.components["mine.py:meets"], one.components["math"]) for one in scores] == [(1.5, 1, 1)] * 2
