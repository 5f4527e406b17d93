"""The learner's side of a tracker: lines wait here, bounded, for a process that takes them one by one.

Loop `serve`: consumes the waiting lines / waits for one, then for the process' reply, under a deadline / unblocked by
`take`, and by the process / produces lines on its input; restarts a process that failed, with back-off.

States of a line: waiting -> with the process -> written; or failed, with a cause; or dropped, when too many wait.
"""

import asyncio
import contextlib
import json
import logging
import sys
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Any

from learner.reporting.trackers.contract import TrackerStart
from tppo.process.backoff import Backoff
from tppo.run_folder.json_lines import json_line

MAX_WAITING = 1000
PIPE_SECONDS = 1.0
"""For the rest of what an ended process has written, which would keep its pipe open."""
MAX_REPLY_BYTES = 2**16
log = logging.getLogger(__name__)


class TrackerError(Exception):
    """The process did not do what was requested."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackerDeadlines:
    """In seconds."""

    start: float = 90.0
    """From the start of the process until it takes lines."""
    line: float = 30.0
    finish: float = 15.0
    """For what still waits, and for the end of the process, when the learner ends."""
    first_delay: float = 1.0
    """Back-off before a process that failed is restarted; each delay is twice the last, up to `longest_delay`."""
    longest_delay: float = 60.0


class TrackerFeed:
    """Of one tracker. Its errors are counted, logged and in the status, and stop nothing."""

    def __init__(
        self,
        name: str,
        start: TrackerStart,
        *,
        command: Sequence[str] = (),
        deadlines: TrackerDeadlines | None = None,
        max_waiting: int = MAX_WAITING,
    ) -> None:
        self.name = name
        self.last_error = ""
        self._start = start
        self._command = command or (sys.executable, "-P", "-m", "learner.reporting.trackers.process", name)
        self._deadlines = deadlines = deadlines or TrackerDeadlines()
        self._backoff = Backoff(first_seconds=deadlines.first_delay, longest_seconds=deadlines.longest_delay)
        self._max_waiting = max_waiting
        self._waiting: deque[bytes] = deque()
        self._has_news = asyncio.Event()
        self._is_closing = False
        self._num_written = self._num_failed = self._num_dropped = 0

    def take(self, line: Mapping[str, Any]) -> None:
        """A line of metrics.jsonl; returns at once."""
        if len(self._waiting) >= self._max_waiting:
            self._num_dropped += 1
            self._note_error(f"{self._max_waiting} lines wait; later ones are dropped")
            return
        self._waiting.append(json_line(line))
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

    def note_unwritten(self) -> None:
        """Nothing will be written any more."""
        if self._waiting:
            self._note_error(f"{len(self._waiting)} lines were not written when the learner ended")

    async def serve(self) -> None:
        """Until `close`, or cancelled."""
        while True:
            try:
                await self._feed_a_process()
                return
            except Exception as error:  # whatever it is, training continues
                self._note_error(str(error) or "no reply before the deadline")
            if self._is_closing:
                return
            await asyncio.sleep(self._backoff.next_delay())

    async def _feed_a_process(self) -> None:
        """From its start to its end."""
        async with self._process() as process:
            start = json.dumps(asdict(self._start)).encode() + b"\n"
            if error := await self._reply_to(start, process, self._deadlines.start):
                raise TrackerError(error)
            self._backoff.reset()
            while await self._is_line_there():
                await self._write_next(process)

    async def _is_line_there(self) -> bool:
        """As soon as one is there; False when none will come."""
        while not self._waiting and not self._is_closing:
            self._has_news.clear()
            await self._has_news.wait()
        return bool(self._waiting)

    async def _write_next(self, process: asyncio.subprocess.Process) -> None:
        """A line over which the process fails is not retried: it might fail so without limit."""
        line = self._waiting.popleft()
        try:
            error = await self._reply_to(line, process, self._deadlines.line)
        except BaseException:
            self._num_failed += 1
            raise
        if error:
            self._num_failed += 1
            self._note_error(error)
        else:
            self._num_written += 1
            self.last_error = ""

    async def _reply_to(self, line: bytes, process: asyncio.subprocess.Process, seconds: float) -> str:
        """The process' error; empty when it has none."""
        assert process.stdin is not None
        assert process.stdout is not None
        async with asyncio.timeout(seconds):
            process.stdin.write(line)
            await process.stdin.drain()
            reply = await process.stdout.readline()
        if not reply:
            raise TrackerError("its process has ended")
        return str(json.loads(reply)["error"])

    @asynccontextmanager
    async def _process(self) -> AsyncIterator[asyncio.subprocess.Process]:
        """A process that has ended when this ends: by itself when all went well, else killed."""
        pipe = asyncio.subprocess.PIPE
        # In a session of its own it outlives a learner that is killed, and writes the lines that it has to the disk.
        process = await asyncio.create_subprocess_exec(
            *self._command, stdin=pipe, stdout=pipe, limit=MAX_REPLY_BYTES, start_new_session=True
        )
        try:
            yield process
            assert process.stdin is not None
            process.stdin.close()
            async with asyncio.timeout(self._deadlines.finish):
                await process.wait()
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
            with contextlib.suppress(TimeoutError):  # its own children may hold the pipe
                async with asyncio.timeout(PIPE_SECONDS):
                    await process.communicate()

    def _note_error(self, error: str) -> None:
        if f"{self.name}: {error}" != self.last_error:
            log.warning("%s: %s; training is not held up", self.name, error)
        self.last_error = f"{self.name}: {error}"
