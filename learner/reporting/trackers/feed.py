"""The learner's side of a tracker: lines wait here, bounded, for a process that takes them one by one.

Loop `serve`: consumes the waiting lines / waits for one, then for the process' answer, under a deadline / unblocked by
`take`, and by the process / produces lines on its input; starts it again, after a while, when it failed.

Life of a line: waiting -> with the process -> written; or failed, with a cause; or dropped, when too many wait.
"""

import asyncio
import contextlib
import json
import logging
import math
import sys
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Any

from learner.reporting.trackers.beginning import Beginning

MAX_WAITING = 1000
MAX_ANSWER_BYTES = 2**16
log = logging.getLogger(__name__)


class TrackerError(Exception):
    """The process did not do what it was asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """Deadlines in seconds."""

    begin: float = 90.0
    """From the start of the process until it takes lines."""
    line: float = 30.0
    finish: float = 15.0
    """For what still waits, and for the end of the process, when the learner ends."""
    first_delay: float = 1.0
    """Before a process that failed is started again; doubled each time, up to `longest_delay`."""
    longest_delay: float = 60.0


class Feed:
    """One tracker. Whatever becomes of it is counted, told in the log and in the status, and stops nothing."""

    def __init__(
        self,
        name: str,
        beginning: Beginning,
        *,
        command: Sequence[str] = (),
        patience: Patience | None = None,
        max_waiting: int = MAX_WAITING,
    ) -> None:
        self.name = name
        self.last_error = ""
        self._beginning = beginning
        self._command = command or (sys.executable, "-P", "-m", "learner.reporting.trackers.process", name)
        self._patience = patience or Patience()
        self._max_waiting = max_waiting
        self._waiting: deque[str] = deque()
        self._has_news = asyncio.Event()
        self._is_closing = False
        self._delay_seconds = self._patience.first_delay
        self._num_written = self._num_failed = self._num_dropped = 0

    def take(self, line: Mapping[str, Any]) -> None:
        """A line of metrics.jsonl; returns at once."""
        if len(self._waiting) >= self._max_waiting:
            self._num_dropped += 1
            self._complain(f"{self._max_waiting} lines wait; later ones are dropped")
            return
        self._waiting.append(json.dumps({name: _plain(value) for name, value in line.items()}))
        self._has_news.set()

    def status(self) -> dict[str, Any]:
        """For the heartbeat."""
        return {
            "num_written": self._num_written,
            "num_failed": self._num_failed,
            "num_dropped": self._num_dropped,
            "num_waiting": len(self._waiting),
            "last_error": self.last_error,
        }

    def close(self) -> None:
        """No line follows: `serve` returns when those that wait are written, or cannot be."""
        self._is_closing = True
        self._has_news.set()

    def say_farewell(self) -> None:
        """Nothing will be written any more."""
        if self._waiting:
            self._complain(f"{len(self._waiting)} lines were not written when the learner ended")

    async def serve(self) -> None:
        """Until `close`, or cancelled."""
        while True:
            try:
                await self._converse()
                return
            except Exception as error:  # whatever it is, training goes on
                self._complain(str(error) or "no answer in time")
            if self._is_closing:
                return
            await asyncio.sleep(self._delay_seconds)
            self._delay_seconds = min(2 * self._delay_seconds, self._patience.longest_delay)

    async def _converse(self) -> None:
        """One life of the process."""
        async with self._process() as process:
            if error := await self._ask(process, json.dumps(asdict(self._beginning)), self._patience.begin):
                raise TrackerError(error)
            self._delay_seconds = self._patience.first_delay
            while await self._is_line_there():
                await self._tell(process)

    async def _is_line_there(self) -> bool:
        """As soon as one is there; False when none will come."""
        while not self._waiting and not self._is_closing:
            self._has_news.clear()
            await self._has_news.wait()
        return bool(self._waiting)

    async def _tell(self, process: asyncio.subprocess.Process) -> None:
        """A line that the process fails over is not tried again: it might do so for ever."""
        line = self._waiting.popleft()
        try:
            error = await self._ask(process, line, self._patience.line)
        except BaseException:
            self._num_failed += 1
            raise
        if error:
            self._num_failed += 1
            self._complain(error)
        else:
            self._num_written += 1
            self.last_error = ""

    async def _ask(self, process: asyncio.subprocess.Process, line: str, seconds: float) -> str:
        """The process' complaint; empty when it has none."""
        assert process.stdin is not None
        assert process.stdout is not None
        async with asyncio.timeout(seconds):
            process.stdin.write(line.encode() + b"\n")
            await process.stdin.drain()
            answer = await process.stdout.readline()
        if not answer:
            raise TrackerError("its process has ended")
        return str(json.loads(answer)["error"])

    @asynccontextmanager
    async def _process(self) -> AsyncIterator[asyncio.subprocess.Process]:
        """A process that has ended when this ends: by itself when all went well, else killed."""
        pipe = asyncio.subprocess.PIPE
        # In a session of its own it outlives a learner that is killed, and puts on the disk what it was told.
        process = await asyncio.create_subprocess_exec(
            *self._command, stdin=pipe, stdout=pipe, limit=MAX_ANSWER_BYTES, start_new_session=True
        )
        try:
            yield process
            assert process.stdin is not None
            process.stdin.close()
            async with asyncio.timeout(self._patience.finish):
                await process.wait()
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()

    def _complain(self, error: str) -> None:
        if f"{self.name}: {error}" != self.last_error:
            log.warning("%s: %s; training is not held up", self.name, error)
        self.last_error = f"{self.name}: {error}"


def _plain(value: Any) -> Any:
    """Numbers that JSON lacks become null."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
