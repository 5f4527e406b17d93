"""Processes and connections fail at moments drawn from a seed; nothing is lost and nothing is trained twice."""

import random
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from tests.faults.chaos import one_run
from tests.faults.chaotic_run import ChaoticRun
from tests.faults.kinds import FAULTS, inject
from tests.faults.story import FINISHED, KILLED, Continuation, Story
from tests.support.fork_server import ForkServer
from tests.support.processes import TPPO, end_now, output_of, tppo
from tests.support.redis_server import full_disk

SEED = 20240
ROUND = [
    "SIGKILL learner in a checkpoint",
    "SIGKILL generation in a weight transfer",
    "SIGKILL reward",
    "SIGKILL Redis",
    "SIGSTOP learner",
    "replies dropped",
]
EMPTY_OR_FULL = [
    "Redis is full while the learner starts",
    "Redis is flushed",
    "Redis comes back empty with its clock behind",
]
EDGES = Story(
    faults=[
        "poison: token 10^6 as the answer",
        "poison: bytes in window_requests",
        "poison: bytes in reward_requests",
        "poison: a policy version to come",
        "poison: a generator that scores and commands",
        "Redis is flushed",
    ],
    continuations=[
        Continuation(
            KILLED,
            damages=["identity.json: truncated", "checkpoints/latest: emptied", "metrics.jsonl: foreign lines"],
            num_more_steps=3,
            changes={"actor.lr": "1e-4"},
        ),
        Continuation(
            FINISHED,
            damages=["summary.json: emptied", "the newest checkpoint: bits flipped", "generation.token: emptied"],
            num_more_steps=3,
            changes={"actor.lr": "2e-5"},
        ),
    ],
)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., ChaoticRun]]:
    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(closing(ChaoticRun(tmp_path, **settings)))


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


def test_a_run_survives_a_redis_that_is_full_or_empty(start: Callable[..., ChaoticRun]) -> None:
    source = random.Random(SEED)
    run = start()

    for name in EMPTY_OR_FULL:
        inject(run, name, source)
    run.finish(num_more_steps=4)

    steps = [line["step"] for line in run.lines("step")]
    assert steps == list(range(1, len(steps) + 1))
    audit = run.audit()
    assert audit.returncode == 0, audit.stdout + audit.stderr


def test_a_run_that_is_poisoned_killed_damaged_and_extended_keeps_its_promises(tmp_path: Path) -> None:
    with ForkServer(tmp_path / "fork_server") as server:
        report = one_run(tmp_path / "run", EDGES, random.Random(SEED), server, seed="the edges")

    assert report.is_good, report.line() + report.details()


def test_a_full_disk_stops_no_training_and_leaves_no_gap(start: Callable[..., ChaoticRun]) -> None:
    run = start(**{"trace.enabled": "false"})
    run.wait_for_step(2)

    with full_disk(run.process_id("learner")):
        written = run.num_steps_done
        status = run.wait_for_status(lambda status: status["step"] >= written + 4 and status["last_error"])
        assert run.num_steps_done == written
    run.finish(num_more_steps=4)

    assert "File too large" in status["last_error"]
    steps = [line["step"] for line in run.lines("step")]
    assert steps == list(range(1, len(steps) + 1))


def test_every_fault_of_the_round_is_a_known_one() -> None:
    assert {*ROUND, *EMPTY_OR_FULL} <= set(FAULTS)


def test_a_second_learner_is_refused_and_a_superseded_one_exits(start: Callable[..., ChaoticRun]) -> None:
    run = start()
    run.wait_for_step(2)
    second = ["learner", str(run.folder / "config.toml"), "--redis", run.redis_url, "--name", "second", "--resume"]

    refused = tppo(*second)
    with run.frozen(run.process_id("learner")):
        before = run.num_steps_done
        with (run.folder / "second.log").open("w") as log:
            successor = subprocess.Popen([*TPPO, *second], stdout=log, stderr=log, text=True)
        run.wait_for_step(before + 3)
    try:
        output = output_of(run.process)
    finally:
        end_now(successor)

    assert refused.returncode == 2
    assert "another learner, incarnation 1 on" in refused.stderr
    assert run.process.returncode == 2
    assert "another learner, incarnation 2, has taken this run over; this one ends" in output
    steps = [line["step"] for line in run.lines("step")]
    assert steps == list(range(1, len(steps) + 1))
    assert run.incarnation() == 2
