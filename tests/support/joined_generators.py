"""The story of a run with one generator of its own and one that joins, for engines of any kind."""

import subprocess
from collections.abc import Callable

from tests.support.processes import end_now
from tests.support.quickstart_run import Run
from tests.support.waiting import DEADLINE_SECONDS

Process = subprocess.Popen[str]


def either_is_killed_and_joins_again(run: Run, join: Callable[[], Process], *, name: str) -> None:
    """Each is killed while the other serves, and comes back; in the end the joined one leaves in order."""
    run.wait_for_step(1)
    joined = [join()]
    try:
        _wait_for_a_window_of(run, joined[0], name)
        joined[0].kill()
        run.wait_for_step(run.num_steps_done + 2)
        joined.append(join())
        _wait_for_a_window_of(run, joined[1], name)
        run.kill("generation-0")
        _wait_for_a_window_of(run, joined[1], name)
        run.wait_for_another_window("generation-0")
        joined[1].terminate()
        assert joined[1].wait(DEADLINE_SECONDS) == 0
        run.wait_for_step(run.num_steps_done + 2)
    finally:
        for process in joined:
            end_now(process)
    run.interrupt()


def _wait_for_a_window_of(run: Run, process: Process, name: str) -> None:
    """Another one; a process that has ended will send none."""
    before = run.num_windows_of(name)
    run.wait_for(
        lambda: run.num_windows_of(name),
        f"a window of {name}",
        is_met=lambda seen: seen > before or process.poll() is not None,
    )
    assert process.poll() is None, f"{name} has ended with exit code {process.returncode}"
