"""Workers as the service sees them: forked from one server, called, and killed.

ForkServerClient._watch   consumes the fork server's reports / waits for the next line / unblocked by a worker's start
                          or exit, or by the server's end / produces each new worker's pid, and the cause of each exit
"""

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Self

from services.reward.workers import frames
from services.reward.workers.worker import WorkerLimits

START_SECONDS = 120.0  # for a worker to load the users' files
END_SECONDS = 3.0  # for the fork server to kill its workers
STDERR = 2
ExitCause = asyncio.Future[str]  # resolves when the worker has exited


class WorkerEndedError(Exception):
    """A worker ended instead of answering; the text says how."""


@dataclass(frozen=True, slots=True)
class Role:
    """What a worker is for."""

    specs: Sequence[str]  # the functions that it loads
    is_concurrent: bool = False  # many calls at once, of asynchronous functions alone


class Worker:
    """A process that calls functions."""

    def __init__(
        self, pid: int, exit_cause: ExitCause, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._pid = pid
        self._exit_cause = exit_cause
        self._reader = reader
        self._writer = writer
        self.load_errors: Mapping[str, str] = {}
        """A sentence for each function that it could not load."""
        self.asynchronous: Sequence[str] = ()
        """The functions that are declared with `async def`."""

    @property
    def is_alive(self) -> bool:
        return not (self._exit_cause.done() or self._reader.at_eof())

    async def load(self, role: Role) -> None:
        """Wait until it has loaded its functions. Raises WorkerEndedError when it ends before that."""
        try:
            self.send(asdict(role))
            async with asyncio.timeout(START_SECONDS):
                report = await self.next_frame()
            self.load_errors, self.asynchronous = report["load_errors"], report["asynchronous"]
        except TimeoutError:
            raise WorkerEndedError(f"the worker did not load its functions within {START_SECONDS:g} s") from None

    async def call(self, request: frames.Frame) -> frames.Frame:
        """The outcome of the request. Raises WorkerEndedError when the worker ends instead."""
        self.send(request)
        return await self.next_frame()

    def send(self, frame: frames.Frame) -> None:
        """At once; what a worker that has ended is sent is lost."""
        self._writer.write(frames.encoded(frame))

    def kill(self) -> None:
        """End it, and whatever it started, at once."""
        self._writer.close()
        if not self._exit_cause.done():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._pid, signal.SIGKILL)

    async def next_frame(self) -> frames.Frame:
        """Raises WorkerEndedError when the worker ends instead."""
        try:
            return await frames.read(self._reader)
        except (asyncio.IncompleteReadError, ConnectionError):
            raise WorkerEndedError(await asyncio.shield(self._exit_cause)) from None  # a deadline ends the wait alone


class ForkServerClient:
    """The process that workers are forked from; `start` starts one."""

    def __init__(self, process: asyncio.subprocess.Process, control: socket.socket) -> None:
        self._process = process
        self._control = control
        self._started: asyncio.Queue[tuple[int, ExitCause] | None] = asyncio.Queue()
        self._exit_causes: dict[int, ExitCause] = {}
        self._forking = asyncio.Lock()
        self._watcher = asyncio.create_task(self._watch())

    @classmethod
    async def start(cls, specs: Sequence[str], limits: WorkerLimits) -> Self:
        """Start the process; it loads those of the functions that are built in."""
        ours, theirs = socket.socketpair()
        with theirs:
            arguments = (str(theirs.fileno()), json.dumps(asdict(limits)), *specs)
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "services.reward.workers.fork_server", *arguments),
                pass_fds=[theirs.fileno()],
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=STDERR,
            )
        return cls(process, ours)

    async def worker(self, role: Role) -> Worker:
        """A new worker that has loaded its functions. Raises WorkerEndedError when it ends before that."""
        connection, far_side = socket.socketpair()
        try:
            with far_side:
                pid, exit_cause = await self._fork(far_side)
        except BaseException:
            connection.close()
            raise
        worker = Worker(pid, exit_cause, *await asyncio.open_connection(sock=connection))
        try:
            await worker.load(role)
        except BaseException:
            worker.kill()
            raise
        return worker

    async def close(self) -> None:
        """End it and all its workers."""
        self._control.close()
        try:
            async with asyncio.timeout(END_SECONDS):
                await self._process.wait()
        except TimeoutError:  # a user's function may have stopped it; its workers die with it
            self._process.kill()
            await self._process.wait()
        await self._watcher

    async def _fork(self, connection: socket.socket) -> tuple[int, ExitCause]:
        try:
            async with self._forking, asyncio.timeout(START_SECONDS):
                socket.send_fds(self._control, [b"\0"], [connection.fileno()])
                started = await self._started.get()
        except TimeoutError:
            raise RuntimeError(f"the fork server started no worker within {START_SECONDS:g} s") from None
        if started is None:
            raise RuntimeError("the process that workers are forked from has ended; the log above says why")
        return started

    async def _watch(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            report = json.loads(line)
            if pid := report.get("started"):
                self._exit_causes[pid] = asyncio.get_running_loop().create_future()
                self._started.put_nowait((pid, self._exit_causes[pid]))
            else:
                self._exit_causes.pop(report["exited"]).set_result(report["cause"])
        for exit_cause in self._exit_causes.values():
            exit_cause.set_result("the process that workers are forked from has ended")
        self._started.put_nowait(None)
