"""`tppo`: what every verb shares."""

import subprocess
import sys
from pathlib import Path

import pytest

from tppo.run_files import run_path

QUICKSTART = Path(__file__).parents[2] / "examples" / "iterated_map" / "quickstart.toml"


def test_a_reader_that_has_seen_enough_is_no_failure_to_tell_about() -> None:
    command = [sys.executable, "-m", "tppo", "run", str(QUICKSTART), "--dry-run"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.close()

    _, complaint = process.communicate(timeout=60)

    assert (complaint, process.returncode) == ("", 1)


def test_a_run_is_told_by_its_path_or_by_its_name_under_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "mine").mkdir(parents=True)

    assert run_path("mine") == Path("runs/mine")
    assert run_path("runs/mine") == Path("runs/mine")
    assert run_path("nobodys") == Path("nobodys")
