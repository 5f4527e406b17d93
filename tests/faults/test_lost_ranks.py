"""A learner of two processes loses one of them, by SIGKILL and by a freeze that nobody ends, and goes on."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.faults.chaotic_run import SEVERAL_RANKS, ChaoticRun
from tests.support.fork_server import ForkServer
from tests.support.processes import output_of
from tppo.run_folder.checkpoints import CheckpointFolder
from tppo.run_folder.paths import RunPaths


@pytest.fixture
def run(tmp_path: Path) -> Iterator[ChaoticRun]:
    with (
        ForkServer(tmp_path / "fork_server") as server,
        closing(ChaoticRun(tmp_path, fork_server=server, **SEVERAL_RANKS)) as started,
    ):
        yield started


@pytest.mark.parametrize(
    ("losses", "reported"),
    [
        (
            [("learner-rank-1", signal.SIGKILL), ("learner", signal.SIGSTOP)],
            ["RankError: rank 1 (PID ", "RankError: no heartbeat from rank 0 for "],
        ),
        (
            [("learner-rank-1", signal.SIGSTOP), ("learner", signal.SIGKILL)],
            ["RankError: no heartbeat from rank 1 (PID "],
        ),
    ],
    ids=["rank 1 is killed and rank 0 frozen", "rank 1 is frozen and rank 0 killed"],
)
def test_a_learner_that_loses_a_rank_begins_again_as_a_whole(
    run: ChaoticRun, losses: list[tuple[str, signal.Signals]], reported: list[str]
) -> None:
    run.wait_for_step(3)

    for name, number in losses:
        run.lose_rank(name, number)
        run.wait_for_step(run.num_steps_done + 1)
    run.finish(num_more_steps=4)

    steps = run.lines("step")
    assert [line["step"] for line in steps] == list(range(1, len(steps) + 1))
    assert (steps[-1]["ledger/issued"], steps[-1]["ledger/trained"]) == (len(steps) * 8, len(steps) * 8)
    audit = run.audit()
    assert audit.returncode == 0, audit.stdout + audit.stderr
    log = (run.folder / "logs" / "learner.log").read_text()
    assert [text in log for text in reported] == [True] * len(reported), log


def test_torchrun_starts_the_ranks_of_a_learner_that_takes_a_run_over(run: ChaoticRun) -> None:
    run.wait_for_step(2)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    learner = ["-m", "tppo", "learner", str(run.folder / "config.toml"), "--set=learner.num_processes=1"]
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

    assert ranks["1"]["activity"] != "starting"
    assert ranks["1"]["pid"] != ranks["0"]["pid"]
    assert "rank 1 learner.ranks" not in (run.folder / "second.log").read_text()
    assert (CheckpointFolder(RunPaths(run.folder).checkpoints).newest_step() or 0) >= before + 3
