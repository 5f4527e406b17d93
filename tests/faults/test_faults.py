"""Processes and connections fail at moments drawn from a seed; nothing is lost and nothing is trained twice."""

import json
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.end_to_end.test_real_processes import PATIENCE_SECONDS
from tests.faults.chaotic_run import FAULTS, ChaoticRun, inject
from tests.faults.redis_of_a_test import full_disk

SEED = 20240
ROUND = [
    "SIGKILL learner in a checkpoint",
    "SIGKILL generation in a weight transfer",
    "SIGKILL reward",
    "SIGKILL Redis",
    "SIGSTOP learner",
    "replies dropped",
]

pytestmark = pytest.mark.timeout(2 * PATIENCE_SECONDS)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., ChaoticRun]]:
    runs: list[ChaoticRun] = []

    def begin(**settings: str) -> ChaoticRun:
        runs.append(ChaoticRun(tmp_path, **settings))
        return runs[-1]

    yield begin
    for run in runs:
        run.close()


def test_a_run_survives_a_round_of_faults(start: Callable[..., ChaoticRun]) -> None:
    source = random.Random(SEED)
    run = start()

    for name in ROUND:
        inject(run, name, source)
    run.finish(num_more_steps=4)

    steps = run.lines("step")
    num_steps = len(steps)
    assert [line["step"] for line in steps] == list(range(1, num_steps + 1))
    assert (steps[-1]["ledger/issued"], steps[-1]["ledger/trained"]) == (num_steps * 8, num_steps * 8)
    audit = run.audit()
    assert audit.returncode == 0, audit.stdout + audit.stderr


def test_a_full_disk_stops_no_training_and_leaves_no_gap(start: Callable[..., ChaoticRun]) -> None:
    run = start(**{"trace.enabled": "false"})
    run.wait_for_step(2)
    before = run.num_steps_done

    with full_disk(run.process_id("learner")):
        status = run.wait_for_status(lambda status: status["step"] >= before + 4 and status["last_error"])
        assert run.num_steps_done <= before + 1
    run.finish(num_more_steps=4)

    assert "File too large" in status["last_error"]
    steps = [line["step"] for line in run.lines("step")]
    assert steps == list(range(1, len(steps) + 1))


def test_every_fault_of_the_round_is_a_known_one() -> None:
    assert set(ROUND) <= set(FAULTS)


def test_a_second_learner_is_refused_and_a_zombie_ends_itself(start: Callable[..., ChaoticRun]) -> None:
    run = start()
    run.wait_for_step(2)
    second = [sys.executable, "-m", "tppo", "learner", str(run.folder / "config.toml")]
    second += ["--redis", run.redis_url, "--name", "second", "--resume"]

    refused = subprocess.run(second, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    with run.frozen(run.process_id("learner")):
        before = run.num_steps_done
        with (run.folder / "second.log").open("wb") as log:
            successor = subprocess.Popen(second, stdout=log, stderr=log)
        run.wait_for_step(before + 3)
    try:
        output, _ = run.process.communicate(timeout=PATIENCE_SECONDS)
    finally:
        successor.terminate()
        successor.wait(timeout=60)

    assert refused.returncode == 2
    assert "another learner, incarnation 1 on" in refused.stderr
    assert run.process.returncode == 2
    assert "another learner, incarnation 2, has taken this run over; this one ends" in output
    steps = [line["step"] for line in run.lines("step")]
    assert steps == list(range(1, len(steps) + 1))
    assert json.loads((run.folder / "identity.json").read_text())["incarnation"] == 2
