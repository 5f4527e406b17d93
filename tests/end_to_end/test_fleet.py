"""Two generators on one run: one of the run's own, and one that joined; either is killed and joins again."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.joined_generators import either_is_killed_and_joins_again
from tests.support.processes import tppo
from tests.support.quickstart_run import NEVER_ENDS, Run

pytestmark = pytest.mark.process


def test_either_of_two_generators_is_killed_and_joins_again(start: Callable[..., Run], tmp_path: Path) -> None:
    run, elsewhere = start(**NEVER_ENDS, **{"trace.enabled": "true"}), tmp_path / "elsewhere"
    either_is_killed_and_joins_again(run, lambda: run.join(elsewhere, name="joined"), name="joined")

    steps = run.lines("step")
    assert [line["step"] for line in steps] == list(range(1, len(steps) + 1))
    audit = tppo("audit", run.folder)
    assert audit.returncode == 0, audit.stdout + audit.stderr
