"""Two generators on one run: one of the run's own, and one that joined; either is killed and joins again."""

import re
import subprocess
from collections.abc import Callable

import pytest

from tests.support.processes import TPPO, end_now
from tests.support.quickstart_run import NEVER_ENDS, Run
from tests.support.waiting import DEADLINE_SECONDS
from tppo.run_folder.json_lines import read_objects
from tppo.run_folder.paths import RunPaths

pytestmark = pytest.mark.process


def join(run: Run) -> "subprocess.Popen[str]":
    """Another generator, which is given nothing but the dashboard's address and the token."""
    log = RunPaths(run.folder).logs / "dashboard.log"
    found = run.wait_for(lambda: re.findall(r"dashboard at (http://[^\s/]+)", log.read_text()), "the page's address")
    arguments = ("--join", found[-1], "--token-file", str(run.folder / "generation.token"), "--name", "joined")
    return subprocess.Popen([*TPPO, "generation", *arguments, "--set=generation.num_slots=4"], text=True)


def num_windows_of(run: Run, generator: str) -> int:
    lines = read_objects(RunPaths(run.folder).journal)
    return sum(line.get("kind") == "window" and line.get("generator") == generator for line in lines)


def wait_for_another_window(run: Run, generator: str) -> None:
    before = num_windows_of(run, generator)
    run.wait_for(lambda: num_windows_of(run, generator), f"a window of {generator}", is_met=lambda seen: seen > before)


def test_either_of_two_generators_is_killed_and_joins_again(start: Callable[..., Run]) -> None:
    run = start(**NEVER_ENDS, **{"trace.enabled": "true"})
    run.wait_for_step(1)
    joined = [join(run)]
    try:
        wait_for_another_window(run, "joined")
        joined[0].kill()
        run.wait_for_step(run.num_steps_done + 2)
        joined.append(join(run))
        wait_for_another_window(run, "joined")
        run.kill("generation-0")
        wait_for_another_window(run, "joined")
        wait_for_another_window(run, "generation-0")
        joined[1].terminate()
        exit_code = joined[1].wait(DEADLINE_SECONDS)
        run.wait_for_step(run.num_steps_done + 2)
    finally:
        for process in joined:
            end_now(process)
    run.interrupt()

    assert exit_code == 0
    steps = run.lines("step")
    assert [line["step"] for line in steps] == list(range(1, len(steps) + 1))
    audit = subprocess.run([*TPPO, "audit", str(run.folder)], capture_output=True, text=True, check=False)
    assert audit.returncode == 0, audit.stdout + audit.stderr
