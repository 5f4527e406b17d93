"""What `tppo run` leaves of its dashboard: on a terminal the page stays, elsewhere the process ends with the run."""

import os
import pty
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.support.processes import end_now
from tests.support.quickstart_run import command_of
from tests.support.waiting import DEADLINE_SECONDS, wait_until

SHORT = {"run.total_training_steps": "2", "trace.log_completions": "1"}


@contextmanager
def on_a_terminal(command: list[str], written: Path) -> Iterator["subprocess.Popen[str]"]:
    """A process on a terminal of its own, whose output is copied into a file."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, text=True)
    with written.open("wb") as copy:
        copying = subprocess.Popen(["cat"], stdin=ours, stdout=copy, stderr=subprocess.DEVNULL)
    os.close(theirs)
    os.close(ours)
    try:
        yield process
    finally:
        end_now(process)
        copying.wait(timeout=DEADLINE_SECONDS)


def test_on_a_terminal_the_page_of_an_ended_run_stays_until_ctrl_c_and_a_resume_starts_nothing(tmp_path: Path) -> None:
    written = tmp_path / "output"
    command = command_of(tmp_path, **SHORT)
    with on_a_terminal([*command, "--log-completions"], written) as process:
        wait_until(lambda: b"until Ctrl-C" in written.read_bytes() or process.poll() is not None, "the run's end")
        found = re.search(rb"the dashboard stays at (http://\S+) until Ctrl-C", written.read_bytes())
        assert found, written.read_text()
        status = httpx.get(f"{found[1].decode()}/api/v1/status", timeout=DEADLINE_SECONDS).json()
        process.send_signal(signal.SIGINT)
        exit_code = process.wait(timeout=DEADLINE_SECONDS)

    resumed = subprocess.run([*command, "--resume"], capture_output=True, text=True, timeout=DEADLINE_SECONDS)

    assert (status["run"], status["state"], status["step"], exit_code) == ("quickstart", "finished", 2, 0)
    assert found[1] in written.read_bytes().splitlines()[0]
    assert all(f"training step {step}".encode() in written.read_bytes() for step in (1, 2))
    assert resumed.returncode == 0
    assert "quickstart has finished: all of its 2 training steps are done" in resumed.stdout
