"""`tppo` and other programs as processes of a test, which outlive no test."""

import asyncio
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.support.waiting import DEADLINE_SECONDS

REPOSITORY = Path(__file__).parents[2]
QUICKSTART = REPOSITORY / "examples" / "iterated_map" / "quickstart.toml"
TPPO = (sys.executable, "-P", "-m", "tppo")
"""As `tppo run` starts its processes: the folder they are started in is no place for modules."""


def tppo(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    """A verb of `tppo` that has come to its end."""
    command = [*TPPO, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=DEADLINE_SECONDS)


def output_of(process: "subprocess.Popen[str]") -> str:
    """All that a process wrote until it ended by itself."""
    output, _ = process.communicate(timeout=DEADLINE_SECONDS)
    return output


def end_now(process: "subprocess.Popen[str]") -> None:
    """Leave nothing of it running: SIGTERM first, so that it can end its own children."""
    try:
        if process.poll() is None:
            process.terminate()
            process.communicate(timeout=DEADLINE_SECONDS)
    finally:
        process.kill()
        process.communicate()


@asynccontextmanager
async def a_process(
    *command: str, environment: Mapping[str, str] | None = None, **pipes: Any
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process that is killed at the end of the block, if it still runs."""
    process = await asyncio.create_subprocess_exec(*command, env=environment, **pipes)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def terminated(process: asyncio.subprocess.Process) -> int:
    """The exit code after SIGTERM."""
    process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(DEADLINE_SECONDS):
        return await process.wait()


def is_running(process_id: int) -> bool:
    """Whether the process exists and does not merely wait for its parent to read its exit code."""
    try:
        status = Path(f"/proc/{process_id}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(") ")[2][0] != "Z"
