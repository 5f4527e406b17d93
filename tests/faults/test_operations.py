"""What docs/operations.md says is done with real processes: a fail-over of Redis, backups, and moves of a run."""

import asyncio
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from tests.faults.chaotic_run import ChaoticRun
from tests.support.fork_server import ForkServer
from tests.support.processes import QUICKSTART, REPOSITORY
from tests.support.proxy import Mood, Proxy
from tests.support.redis_server import Redis, running_redis
from tests.support.waiting import wait_until
from tppo.run_folder.checkpoints import CheckpointFolder
from tppo.run_folder.paths import RunPaths
from tppo.streams.connection import connect

PAGE = REPOSITORY / "docs" / "operations.md"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServer]:
    with ForkServer(tmp_path_factory.mktemp("fork_server")) as started:
        yield started


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


def commands_under(heading: str) -> str:
    """The first block of shell commands below a heading of the page."""
    text = PAGE.read_text(encoding="utf-8").split(f"\n## {heading}\n")[1]
    (block,) = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)[:1]
    return str(block)


def carry_out(commands: str, **variables: object) -> None:
    assigned = "".join(f"{name}='{value}'\n" for name, value in variables.items())
    subprocess.run(["bash", "-euc", assigned + commands], check=True, cwd="/")


def redis_command(server: Redis, *command: str) -> Any:
    async def execute() -> Any:
        async with await connect(server.url) as client:
            return await client.execute_command(*command)

    return asyncio.run(execute())


def require_whole(run: ChaoticRun) -> None:
    """Every step is there, once, all windows are accounted for, and the run can be repeated from its log."""
    steps = run.lines("step")
    assert [line["step"] for line in steps] == list(range(1, len(steps) + 1))
    assert (steps[-1]["ledger/issued"], steps[-1]["ledger/trained"]) == (len(steps) * 8, len(steps) * 8)
    for verb in ("audit", "replay"):
        ran = run.verb(verb)
        assert ran.returncode == 0, f"{verb}: {ran.stdout}{ran.stderr}"


def test_a_replica_that_takes_over_costs_nothing_that_was_trained(
    tmp_path: Path, server: ForkServer, stack: ExitStack
) -> None:
    run = stack.enter_context(closing(ChaoticRun(tmp_path, fork_server=server)))
    to_primary = stack.enter_context(closing(Proxy(run.redis.port)))
    options = ("--replicaof", f"127.0.0.1 {to_primary.port}")
    replica = stack.enter_context(running_redis(tmp_path / "replica", *options))
    wait_until(lambda: b"connected" in redis_command(replica, "ROLE"), "a replica that has all that the primary has")
    run.wait_for_step(2)

    with to_primary.in_mood(Mood.BLACK_HOLE):
        run.wait_for_step(run.num_steps_done + 2)  # of which the replica knows nothing
        run.redis.kill()
        run.proxy.lead_to(replica.port)
        redis_command(replica, "REPLICAOF", "NO", "ONE")
    run.wait_for_step(run.num_steps_done + 2)
    run.finish(num_more_steps=3)

    require_whole(run)


def test_a_backup_of_a_running_run_is_resumed_elsewhere_and_the_run_moves_on_to_a_third_place(
    tmp_path: Path, server: ForkServer, stack: ExitStack
) -> None:
    keeping = {"checkpoint.keep": "1000"}  # a machine that is busy may be slow to copy, and quick to train
    first = stack.enter_context(closing(ChaoticRun(tmp_path / "first", fork_server=server, **keeping)))
    first.wait_for(CheckpointFolder(RunPaths(first.folder).checkpoints).committed, "a checkpoint")
    backup, second_folder, third_folder = (tmp_path / name for name in ("backup", "second", "third"))

    carry_out(commands_under("Back up a run"), RUN=first.folder, BACKUP=backup)
    first.wait_for_step(first.num_steps_done + 2)
    first.kill_everything()
    shutil.rmtree(first.folder)
    carry_out(commands_under("Restore a run"), RUN=run_folder(second_folder), BACKUP=backup)
    second = stack.enter_context(closing(elsewhere(second_folder, server)))
    second.wait_for_step(second.newest_step() + 3)
    second.interrupt()
    newest = second.newest_step()
    carry_out(commands_under("Move a run"), RUN=second.folder, THERE=run_folder(third_folder))
    shutil.rmtree(second.folder)
    total = str(newest + 3)
    third = stack.enter_context(closing(elsewhere(third_folder, server, **{"run.total_training_steps": total})))
    third.end()

    require_whole(third)


def run_folder(folder: Path) -> Path:
    return folder / "runs" / "quickstart"


def elsewhere(folder: Path, server: ForkServer, **settings: str) -> ChaoticRun:
    """The run goes on from its folder there: other paths of its task, another Redis, which is empty, other ports."""
    task = folder / "task"
    shutil.copytree(QUICKSTART.parent, task)
    files = {"data.train_files": "train", "data.val_files": "validation"}
    places = {"model.path": f"{task}/base/actor", "model.critic_path": f"{task}/base/critic"}
    places |= {key: f'["{task}/data/{name}.jsonl"]' for key, name in files.items()}
    return ChaoticRun(folder, fork_server=server, options=["--resume"], **places, **settings)
