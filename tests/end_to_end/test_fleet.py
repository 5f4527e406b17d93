"""Two generators on one run: one of the run's own, and one that joined; either is killed and joins again."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.processes import end_now, tppo
from tests.support.quickstart_run import NEVER_ENDS, Run
from tests.support.waiting import DEADLINE_SECONDS

pytestmark = pytest.mark.process


def test_either_of_two_generators_is_killed_and_joins_again(start: Callable[..., Run], tmp_path: Path) -> None:
    run, elsewhere = start(**NEVER_ENDS, **{"trace.enabled": "true"}), tmp_path / "elsewhere"
    run.wait_for_step(1)
    joined = [run.join(elsewhere, name="joined")]
    try:
        run.wait_for_another_window("joined")
        joined[0].kill()
        run.wait_for_step(run.num_steps_done + 2)
        joined.append(run.join(elsewhere, name="joined"))
        run.wait_for_another_window("joined")
        run.kill("generation-0")
        run.wait_for_another_window("joined")
        run.wait_for_another_window("generation-0")
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
    audit = tppo("audit", run.folder)
    assert audit.returncode == 0, audit.stdout + audit.stderr
