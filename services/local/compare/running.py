"""Runs a comparison's runs one after the other, each by a `tppo run` of its own."""

import shutil
import signal
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Protocol

from services.local.compare.plan import PlannedRun, is_done
from tppo.process.interpreter import tppo_command


class StoppedError(Exception):
    """The user stopped the comparison; the same command continues it."""


class RunFailedError(Exception):
    """A run did not finish; the text says which."""


class Launcher(Protocol):
    """Runs one run to its end."""

    def __call__(self, config_path: Path, run: PlannedRun) -> int:
        """The exit code of `tppo run`."""


def run_all(config_path: Path, runs: Sequence[PlannedRun], *, launch: Launcher, say: Callable[[str], object]) -> None:
    """Run what is not done yet. An interrupted run starts from scratch: its clock cannot be continued."""
    for number, run in enumerate(runs, start=1):
        name = f"[{number}/{len(runs)}] {run.system}, seed {run.seed}"
        if is_done(run):
            say(f"{name}: done before")
            continue
        shutil.rmtree(run.paths.folder, ignore_errors=True)
        say(f"{name}: {run.config.run.total_training_steps} steps")
        exit_code = launch(config_path, run)
        if exit_code or not is_done(run):
            raise RunFailedError(f"{name}: tppo run exited with code {exit_code}; see {run.paths.logs}")


def launch_process(config_path: Path, run: PlannedRun) -> int:
    """`tppo run` as a child; a signal to this process stops it in order; then `StoppedError`."""
    command = tppo_command("run", str(config_path), "--exit-at-end")
    command += [part for override in run.overrides for part in ("--set", override)]
    was_stopped = False
    process = subprocess.Popen(command, start_new_session=True)

    def stop(_number: int, _frame: FrameType | None) -> None:
        nonlocal was_stopped
        was_stopped = True
        process.terminate()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        exit_code = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if was_stopped:
        raise StoppedError
    return exit_code
