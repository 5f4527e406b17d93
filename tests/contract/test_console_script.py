"""`tppo`: what every verb shares."""

import subprocess

import pytest

from tests.support.processes import QUICKSTART, TPPO
from tests.support.waiting import DEADLINE_SECONDS


@pytest.mark.process
def test_a_closed_pipe_ends_the_process_without_an_error_message() -> None:
    command = [*TPPO, "run", str(QUICKSTART), "--dry-run", "--set=dashboard.port=0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.close()

    _, complaint = process.communicate(timeout=DEADLINE_SECONDS)

    assert (complaint, process.returncode) == ("", 1)
