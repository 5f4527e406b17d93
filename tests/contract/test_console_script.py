"""`tppo`: what every verb shares."""

import subprocess
from types import SimpleNamespace
from typing import Never

import pytest

from tests.support.processes import QUICKSTART, TPPO
from tests.support.waiting import DEADLINE_SECONDS
from tppo.__main__ import main


@pytest.mark.process
def test_a_closed_pipe_ends_the_process_without_an_error_message() -> None:
    command = [*TPPO, "run", str(QUICKSTART), "--dry-run", "--set=dashboard.port=0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.close()

    _, complaint = process.communicate(timeout=DEADLINE_SECONDS)

    assert (complaint, process.returncode) == ("", 1)


def test_ctrl_c_while_a_verb_loads_ends_it_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(arguments: list[str]) -> Never:
        raise KeyboardInterrupt

    monkeypatch.setattr("tppo.__main__._room", lambda module: SimpleNamespace(main=interrupted))

    assert main(["dashboard", "runs"]) == 130
    assert capsys.readouterr() == ("", "")
