"""`tppo`: what every verb shares."""

import subprocess
import sys
from pathlib import Path

import pytest

QUICKSTART = Path(__file__).parents[2] / "examples" / "iterated_map" / "quickstart.toml"


@pytest.mark.process
def test_a_reader_that_has_seen_enough_is_no_failure_to_tell_about() -> None:
    command = [sys.executable, "-m", "tppo", "run", str(QUICKSTART), "--dry-run"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.close()

    _, complaint = process.communicate(timeout=60)

    assert (complaint, process.returncode) == ("", 1)
