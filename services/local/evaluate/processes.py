"""The processes that an evaluation starts: a generator that serves a checkpoint, and a reward service."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from services.local.processes import child_environment
from tppo.config import ConfigError
from tppo.process.interpreter import tppo_command
from tppo.process.tether import tethered

GRACE_SECONDS = 10.0
"""Between SIGTERM and SIGKILL."""


class ServingEndedError(Exception):
    """A process that was needed has ended; the text says which, and its last words."""


@asynccontextmanager
async def serving(
    name: str, arguments: Sequence[str], *, log: Path, secrets: Mapping[str, str]
) -> AsyncIterator[tuple[dict[str, Any], asyncio.Task[None]]]:
    """Starts a verb that prints where it serves; gives that line, and a task that fails when the process ends.

    Raises `ConfigError` where it ends before it serves.
    """
    command = tethered(tppo_command(*arguments))
    environment = {**child_environment(os.environ, num_processes=1), **secrets}
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=output, env=environment
        )
    ending = asyncio.create_task(_ended(name, process, log))
    try:
        yield await _place(name, process, log), ending
    finally:
        ending.cancel()
        await _stop(process)


async def _place(name: str, process: asyncio.subprocess.Process, log: Path) -> dict[str, Any]:
    """The first line of its output that is an object of JSON."""
    assert process.stdout is not None
    while line := await process.stdout.readline():
        if line.lstrip().startswith(b"{"):
            found = json.loads(line)
            assert isinstance(found, dict)
            return found
    await process.wait()
    raise ConfigError(_last_words(name, process, log))


async def _ended(name: str, process: asyncio.subprocess.Process, log: Path) -> None:
    await process.wait()
    raise ServingEndedError(_last_words(name, process, log))


def _last_words(name: str, process: asyncio.subprocess.Process, log: Path) -> str:
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    last = lines[-1].removeprefix(f"tppo {name}: ") if lines else "no message"
    return f"{name} exited with code {process.returncode}: {last} (log: {log})"


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.terminate()
    try:
        async with asyncio.timeout(GRACE_SECONDS):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
