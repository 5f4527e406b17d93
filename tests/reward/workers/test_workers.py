"""Users' functions in processes of their own: what they do to themselves stays there."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.reward.workers.pools import pool_of
from tests.support.processes import is_running
from tests.support.waiting import until, until_answered
from tppo.rollout import RewardRequest, ScoreStatus
from tppo.scoring.outcome import Outcome

FUNCTIONS = """
import asyncio, os, signal, subprocess, sys, time

def well(data_source, solution_str, ground_truth, extra_info):
    print("printed, to the log")
    return {"score": float(solution_str == ground_truth), "length": len(solution_str)}

async def well_async(data_source, solution_str, ground_truth, extra_info):
    await asyncio.sleep(0)
    return 0.5

def no_opinion(data_source, solution_str, ground_truth, extra_info):
    return None

def sleeps(data_source, solution_str, ground_truth, extra_info):
    child = subprocess.Popen(["sleep", "1000"])
    with open(ground_truth, "w") as file:
        file.write(str(child.pid))
    time.sleep(1000)

def computes_endlessly(data_source, solution_str, ground_truth, extra_info):
    return 9 ** 9 ** 9 ** 9

def raises(data_source, solution_str, ground_truth, extra_info):
    raise KeyError("weight")

def exits(data_source, solution_str, ground_truth, extra_info):
    os._exit(3)

def exits_politely(data_source, solution_str, ground_truth, extra_info):
    sys.exit("enough")

def kills_itself(data_source, solution_str, ground_truth, extra_info):
    os.kill(os.getpid(), 9)

def stops_its_parent(data_source, solution_str, ground_truth, extra_info):
    os.kill(os.getppid(), signal.SIGSTOP)
    os._exit(3)

def is_nan(data_source, solution_str, ground_truth, extra_info):
    return float("nan")

def eats_memory(data_source, solution_str, ground_truth, extra_info):
    return float(len(bytearray(2**31)))

def process(data_source, solution_str, ground_truth, extra_info):
    return os.getpid()
"""

RIGHT = RewardRequest("right", 0, "mine", "2+2?", "4", "4")


def without_duration(outcome: Outcome) -> Outcome:
    return Outcome(outcome.status, outcome.score, outcome.components, outcome.error)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("well", Outcome(ScoreStatus.SCORED, 1.0, {"length": 1.0})),
        ("well_async", Outcome(ScoreStatus.SCORED, 0.5)),
        ("no_opinion", Outcome(ScoreStatus.ABSTAINED)),
        ("is_nan", Outcome(ScoreStatus.FAILED, error="the function returned score = nan; expected a finite number")),
        ("exits", Outcome(ScoreStatus.FAILED, error="the worker exited with code 3")),
        ("exits_politely", Outcome(ScoreStatus.FAILED, error="the worker exited with code 1")),
        ("kills_itself", Outcome(ScoreStatus.FAILED, error="the worker was killed by SIGKILL")),
    ],
)
async def test_each_end_of_a_function_has_its_outcome_and_the_next_request_is_served(
    spec: Callable[[str], str], name: str, expected: Outcome
) -> None:
    async with pool_of(spec(name), spec("well")) as pool:
        outcome = await pool.outcome(spec(name), RIGHT)
        after = await pool.outcome(spec("well"), RIGHT)

    assert without_duration(outcome) == expected
    assert after.score == 1.0


async def test_an_exception_is_reported_with_its_place(spec: Callable[[str], str], tmp_path: Path) -> None:
    async with pool_of(spec("raises")) as pool:
        outcome = await pool.outcome(spec("raises"), RIGHT)

    assert outcome.status is ScoreStatus.FAILED
    assert outcome.error.startswith(f"KeyError: 'weight' ({tmp_path}/mine.py, line ")


async def test_more_memory_than_the_limit_is_a_failure(spec: Callable[[str], str]) -> None:
    async with pool_of(spec("eats_memory"), spec("well")) as pool:
        outcome = await pool.outcome(spec("eats_memory"), RIGHT)
        after = await pool.outcome(spec("well"), RIGHT)

    assert outcome.error.startswith("MemoryError")
    assert after.score == 1.0


@pytest.mark.parametrize("name", ["computes_endlessly", "sleeps"])
async def test_at_the_deadline_the_worker_is_killed_and_replaced(
    spec: Callable[[str], str], name: str, tmp_path: Path
) -> None:
    request = RewardRequest("slow", 0, "mine", "2+2?", "4", str(tmp_path / "pid"))
    async with pool_of(spec(name), spec("well"), timeout_seconds=0.5) as pool:
        outcome = await pool.outcome(spec(name), request)
        await until_answered(
            lambda: pool.outcome(spec("well"), RIGHT), "a score of the next worker", is_met=lambda one: one.score == 1.0
        )

    assert without_duration(outcome) == Outcome(ScoreStatus.TIMED_OUT, error="no answer within 0.5 s")


async def test_a_call_that_hangs_costs_no_other_request_its_score(spec: Callable[[str], str], tmp_path: Path) -> None:
    request = RewardRequest("slow", 0, "mine", "2+2?", "4", str(tmp_path / "pid"))
    async with pool_of(spec("sleeps"), spec("well"), timeout_seconds=2.0) as pool:
        hanging = asyncio.create_task(pool.outcome(spec("sleeps"), request))
        await until(lambda: (tmp_path / "pid").exists(), "the call")
        behind = await asyncio.gather(*(pool.outcome(spec("well"), RIGHT) for _ in range(12)))
        outcome = await hanging

    assert outcome.status is ScoreStatus.TIMED_OUT
    assert [one.score for one in behind] == [1.0] * 12


async def test_a_fork_server_that_does_not_answer_is_an_error_and_ends_with_the_pool(
    spec: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with pool_of(spec("stops_its_parent"), timeout_seconds=1.0) as pool:
        await pool.outcome(spec("stops_its_parent"), RIGHT)  # late: nobody is there to report the exit
        monkeypatch.setattr("services.reward.workers.client.START_SECONDS", 0.2)
        with pytest.raises(RuntimeError, match=r"the fork server started no worker within 0\.2 s"):
            await pool.outcome(spec("stops_its_parent"), RIGHT)


async def test_what_a_killed_function_started_dies_with_it(spec: Callable[[str], str], tmp_path: Path) -> None:
    written = tmp_path / "pid"
    request = RewardRequest("slow", 0, "mine", "2+2?", "4", str(written))
    async with pool_of(spec("sleeps"), timeout_seconds=0.5) as pool:
        while not (written.exists() and written.read_text()):  # a busy machine kills it before it has started anything
            await pool.outcome(spec("sleeps"), request)

    child = int(written.read_text())
    await until(lambda: not is_running(child), "the end of the child")
    assert not is_running(child)


async def test_a_worker_is_kept_for_the_next_request(spec: Callable[[str], str]) -> None:
    async with pool_of(spec("process")) as pool:
        first = await pool.outcome(spec("process"), RIGHT)
        second = await pool.outcome(spec("process"), RIGHT)

    assert first.score == second.score


async def test_a_response_of_megabytes_reaches_the_function(spec: Callable[[str], str]) -> None:
    request = RewardRequest("long", 0, "mine", "", "é" * 3_000_000, "4")
    async with pool_of(spec("well")) as pool:
        outcome = await pool.outcome(spec("well"), request)

    assert outcome.components == {"length": 3_000_000.0}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("import os; os._exit(7)", "the worker exited with code 7"),
        ("import nowhere_to_be_found", "No module named 'nowhere_to_be_found'"),
    ],
)
async def test_a_file_that_does_not_load_is_reported_at_the_start(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "broken.py").write_text(text)

    with pytest.raises(ValueError, match=sentence):
        async with pool_of(f"{tmp_path}/broken.py:f"):
            pass
