"""A learner of two processes loses one of them, by SIGKILL and by a freeze that nobody ends, and goes on."""

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from tests.faults.chaotic_run import SEVERAL_RANKS, VALUE_MODEL_APART, ChaoticRun
from tests.support.fork_server import ForkServer
from tests.support.processes import output_of
from tppo.run_folder.checkpoints import CheckpointFolder
from tppo.run_folder.json_lines import read_objects
from tppo.run_folder.paths import RunPaths

RANK_1 = "learner-rank-1"
SHARED_TOKENS = {"learner.sequence_parallel_size": "2"}
LOSSES = [
    (RANK_1, signal.SIGKILL, "RankError: rank 1 (PID "),
    ("learner", signal.SIGSTOP, "RankError: no heartbeat from rank 0 for "),
    (RANK_1, signal.SIGSTOP, "RankError: no heartbeat from rank 1 (PID "),
    ("learner", signal.SIGKILL, ""),  # the kernel ends rank 1 with it, before it could say anything
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServer]:
    with ForkServer(tmp_path_factory.mktemp("fork_server")) as started:
        yield started


@pytest.fixture
def start(tmp_path: Path, server: ForkServer) -> Iterator[Callable[..., ChaoticRun]]:
    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(closing(ChaoticRun(tmp_path, fork_server=server, **settings)))


def test_a_learner_that_loses_ranks_begins_again_as_a_whole_and_is_replayed_bit_for_bit(
    start: Callable[..., ChaoticRun],
) -> None:
    run = start(**SEVERAL_RANKS, **SHARED_TOKENS)
    run.wait_for_step(2)

    for name, number, _ in LOSSES:
        run.lose_rank(name, number)
        run.wait_for_step(run.num_steps_done + 1)
    run.finish(num_more_steps=3)

    steps = run.lines("step")
    assert [line["step"] for line in steps] == list(range(1, len(steps) + 1))
    assert (steps[-1]["ledger/issued"], steps[-1]["ledger/trained"]) == (len(steps) * 8, len(steps) * 8)
    audit = run.audit()
    assert audit.returncode == 0, audit.stdout + audit.stderr
    replay = run.replay()
    assert replay.returncode == 0, replay.stdout + replay.stderr
    assert f"replayed {len(steps)} steps" in replay.stdout
    starts = [line for line in read_objects(RunPaths(run.folder).journal) if line.get("event") == "start"]
    assert {(start["num_processes"], start["device"]) for start in starts} == {(2, "cpu")}
    assert {start["conditions"]["sequence_parallel_size"] for start in starts} == {2}
    log = (RunPaths(run.folder).logs / "learner.log").read_text()
    assert [text for *_, text in LOSSES if text not in log] == [], log


def test_a_value_model_in_a_process_of_its_own_is_lost_and_trained_on_bit_for_bit(
    start: Callable[..., ChaoticRun],
) -> None:
    run = start(**VALUE_MODEL_APART)
    run.wait_for_step(2)
    ranks = run.wait_for_status(lambda status: len(status["ranks"]) == 2)["ranks"]

    run.lose_rank(RANK_1, signal.SIGKILL)
    run.wait_for_step(run.num_steps_done + 1)
    run.finish(num_more_steps=2)

    assert {rank: one["trains"] for rank, one in ranks.items()} == {"0": "policy", "1": "value model"}
    steps = run.lines("step")
    assert [line["step"] for line in steps] == list(range(1, len(steps) + 1))
    assert all(line["timing_s/update_critic"] > 0 for line in steps)
    assert any(line.get("critic/grad_norm") for line in steps)
    audit = run.audit()
    assert audit.returncode == 0, audit.stdout + audit.stderr
    replay = run.replay()
    assert replay.returncode == 0, replay.stdout + replay.stderr
    assert "the same bits (by 1 process of the policy and 1 of the value model on cpu" in replay.stdout


def test_torchrun_starts_the_ranks_of_a_learner_that_takes_a_run_over(start: Callable[..., ChaoticRun]) -> None:
    run = start()
    run.wait_for_step(2)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    learner = ["-m", "tppo", "learner", str(run.folder / "config.toml")]
    options = ["--redis", run.redis_url, "--name", "second", "--resume"]

    with run.frozen(run.process_id("learner")):
        before = run.num_steps_done
        with (run.folder / "second.log").open("w") as log:
            successor = subprocess.Popen([*torchrun, *learner, *options], stdout=log, stderr=log, text=True)
        try:
            run.wait_for_step(before + 3)
            ranks = run.wait_for_status(lambda status: status["incarnation"] == 2 and len(status["ranks"]) == 2)[
                "ranks"
            ]
        finally:
            successor.terminate()
            output_of(successor)

    assert "rank 1 of 2 is there" in (run.folder / "second.log").read_text()
    assert ranks["1"]["pid"] != ranks["0"]["pid"]
    assert (CheckpointFolder(RunPaths(run.folder).checkpoints).newest_step() or 0) >= before + 3
