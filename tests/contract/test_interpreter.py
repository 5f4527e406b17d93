"""`tppo` with the Python of another environment."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tppo.config import ConfigError
from tppo.process.interpreter import CODE, RESTARTED_VARIABLE, require_python, restart_with

KEY = "generation.python"


def a_program(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_a_missing_interpreter_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"generation\.python = .*nowhere: no such program; expected the Python"):
        require_python(tmp_path / "nowhere", key=KEY)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The programs that would have taken this process over."""
    programs: list[Path] = []
    monkeypatch.setattr(os, "execve", lambda program, arguments, environment: programs.append(program))
    return programs


@pytest.mark.parametrize("python", [None, Path(sys.executable)])
def test_a_process_of_that_interpreter_goes_on(python: Path | None, started: list[Path]) -> None:
    restart_with(python, ["generation"], key=KEY)

    assert started == []


def test_another_interpreter_takes_the_process_over(tmp_path: Path) -> None:
    other = a_program(tmp_path / "python", 'echo "$PYTHONPATH $@"; exit 7')
    program = "import sys; from pathlib import Path; from tppo.process.interpreter import restart_with; "
    program += f"restart_with(Path({str(other)!r}), ['generation', '--name=g'], key='k')"

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert done.returncode == 7
    path, rest = done.stdout.split(" ", 1)
    assert path.startswith(str(CODE))
    assert rest == "-P -m tppo generation --name=g\n"


def test_a_program_that_starts_another_interpreter_is_restarted_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, started: list[Path]
) -> None:
    other = a_program(tmp_path / "python", "exit 7")
    restart_with(other, ["generation"], key=KEY)
    monkeypatch.setenv(RESTARTED_VARIABLE, str(other))
    restart_with(other, ["generation"], key=KEY)

    assert started == [other]
