"""Workers as the service sees them: born from a nursery, asked one thing at a time, and killed.

Nursery._watch   consumes the nursery process's reports / waits for the next line / unblocked by a birth, a death,
                 or that process's end / produces the pid of each new worker, and the cause of each death
"""

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import Sequence
from typing import Self

from services.reward.workers import frames

START_SECONDS = 120.0  # for a worker to load the users' files
STDERR = 2
Death = asyncio.Future[str]  # resolves to the cause


class WorkerEndedError(Exception):
    """A worker ended instead of answering; the text says how."""


class Worker:
    """A process that answers one request at a time."""

    def __init__(self, pid: int, death: Death, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._pid = pid
        self._death = death
        self._reader = reader
        self._writer = writer
        self._load_errors: list[str] = []

    @property
    def load_errors(self) -> Sequence[str]:
        """A sentence for each function that it could not load."""
        return self._load_errors

    @property
    def is_alive(self) -> bool:
        """Whether it has not ended so far."""
        return not (self._death.done() or self._reader.at_eof())

    async def load(self) -> None:
        """Wait until it has loaded its functions. Raises WorkerEndedError when it ends before that."""
        try:
            async with asyncio.timeout(START_SECONDS):
                self._load_errors = (await self._next_frame())["load_errors"]
        except TimeoutError:
            raise WorkerEndedError(f"the worker did not load its functions within {START_SECONDS:g} s") from None

    async def ask(self, call: frames.Frame) -> frames.Frame:
        """The answer to a call. Raises WorkerEndedError when the worker ends instead."""
        self._writer.write(frames.encoded(call))
        return await self._next_frame()

    def kill(self) -> None:
        """End it, and whatever it started, at once."""
        self._writer.close()
        if not self._death.done():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._pid, signal.SIGKILL)

    async def _next_frame(self) -> frames.Frame:
        try:
            return await frames.read(self._reader)
        except (asyncio.IncompleteReadError, ConnectionError):
            raise WorkerEndedError(await self._death) from None


class Nursery:
    """The process that workers are forked from; `start` makes one."""

    def __init__(self, process: asyncio.subprocess.Process, control: socket.socket) -> None:
        self._process = process
        self._control = control
        self._births: asyncio.Queue[tuple[int, Death] | None] = asyncio.Queue()
        self._deaths: dict[int, Death] = {}
        self._spawning = asyncio.Lock()
        self._watcher = asyncio.create_task(self._watch())

    @classmethod
    async def start(cls, specs: Sequence[str], *, memory_limit_bytes: int) -> Self:
        """Start the process; its workers will know the functions `specs`."""
        ours, theirs = socket.socketpair()
        with theirs:
            arguments = (str(theirs.fileno()), str(memory_limit_bytes), *specs)
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "services.reward.workers.fork_server", *arguments),
                pass_fds=[theirs.fileno()],
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=STDERR,
            )
        return cls(process, ours)

    async def worker(self) -> Worker:
        """A new worker that has loaded its functions. Raises WorkerEndedError when it ends before that."""
        connection, far_side = socket.socketpair()
        with far_side:
            pid, death = await self._birth(far_side)
        worker = Worker(pid, death, *await asyncio.open_connection(sock=connection))
        try:
            await worker.load()
        except BaseException:
            worker.kill()
            raise
        return worker

    async def close(self) -> None:
        """End it and all its workers."""
        self._control.close()
        await self._process.wait()
        await self._watcher

    async def _birth(self, connection: socket.socket) -> tuple[int, Death]:
        async with self._spawning:
            socket.send_fds(self._control, [b"\0"], [connection.fileno()])
            birth = await self._births.get()
        if birth is None:
            raise RuntimeError("the process that workers are forked from has ended; the log above says why")
        return birth

    async def _watch(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            report = json.loads(line)
            if pid := report.get("born"):
                self._deaths[pid] = asyncio.get_running_loop().create_future()
                self._births.put_nowait((pid, self._deaths[pid]))
            else:
                self._deaths.pop(report["died"]).set_result(report["cause"])
        for death in self._deaths.values():
            death.set_result("the process that workers are forked from has ended")
        self._births.put_nowait(None)
