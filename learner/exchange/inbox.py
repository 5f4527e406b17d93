"""Reads the inbox: windows, scores and commands, in the order in which they arrived. And what to do when Redis is full.

* `InboxLoop.serve`: consumes inbox entries / waits for the next ones / unblocked by generators, reward workers and
  operators / produces changes of the rollout manager. The position is where reading goes on; a checkpoint keeps it, and
  the checkpoint writer trims the inbox up to a committed one. While a step is computed it lets records gather, so that
  few large reads, and not many small ones, take time of the interpreter that the step needs.
* `RejectedRecords.serve`: consumes records that the border rejects, which count as never arrived / waits for one /
  unblocked by the reader / produces dead letters, for a person to look at.
* `MemoryPressure.serve`: consumes the server's memory / waits a second / unblocked by the clock / produces the request
  for a checkpoint ahead of time, after which the inbox is trimmed. Without it, windows that find no room and a learner
  that waits for them would wait for each other.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from learner.rollouts.border import Border, RejectedError
from learner.rollouts.manager import RolloutManager
from learner.rollouts.rollout import Position
from tppo.process.backoff import Backoff
from tppo.rollout import InboxRecord
from tppo.streams import Inbox, InboxEntry, Streams, StreamsError, until_redis_answers
from tppo.streams.contract import (
    BEGINNING,
    MAX_CAUSE_CHARACTERS,
    MAX_DEAD_LETTERS,
    MAX_LETTER_BYTES,
    DeadLetter,
    position_of,
)

logger = logging.getLogger(__name__)

READ_COUNT = 256  # inbox entries per read
SLICE_BYTES = 2**20  # of payloads that are entered before other tasks have their turn
READ_WAIT_SECONDS = 1.0
FIRST_DELAY_SECONDS = 0.5  # between attempts while Redis does not answer
LONGEST_DELAY_SECONDS = 4.0
LOOK_AT_MEMORY_SECONDS = 1.0
GATHERING_SECONDS = 0.02  # the most that a record waits: little beside the time in which a window is sampled
SUPPLIED_SECONDS = 0.25  # the same, while all rows of the next step are there


class InboxLoop:
    """The reader of one learner."""

    def __init__(
        self,
        inbox: Inbox,
        position: str,
        border: Border,
        *,
        enter: Callable[[Position, InboxRecord], None],
        reject: Callable[[InboxEntry, RejectedError], None],
        on_entries: Callable[[int], None],
        held_at: Callable[[], str | None] = lambda: None,
        is_supplied: Callable[[], bool] = lambda: False,
    ) -> None:
        """`enter` takes each record that the border admits, `reject` each other one.

        `on_entries` is called after each read, or each slice of a large one, with the number of entries. Records behind
        `held_at` wait until it lies further, or is None. `is_supplied`: whether the next step lacks none.
        """
        self._inbox = inbox
        self._border = border
        self._enter, self._reject = enter, reject
        self._on_entries = on_entries
        self._held_at, self._is_supplied = held_at, is_supplied
        self._has_moved = asyncio.Event()
        self._is_awaited = asyncio.Event()
        self._is_awaited.set()
        self.position = position
        self.is_at_end = False
        """Whether what was read last went to the inbox's end."""

    def release(self) -> None:
        """`held_at` has changed."""
        self._has_moved.set()

    @contextmanager
    def gathering(self) -> Iterator[None]:
        """Meanwhile nobody waits for the next record."""
        self._is_awaited.clear()
        try:
            yield
        finally:
            self._is_awaited.set()

    async def serve(self) -> None:
        """Read until cancelled."""
        backoff = Backoff(first_seconds=FIRST_DELAY_SECONDS, longest_seconds=LONGEST_DELAY_SECONDS)
        while True:
            if not self._may_enter_behind(self.position):
                self._has_moved.clear()
                await self._has_moved.wait()
                continue
            try:
                entries = await self._inbox.read(self.position, max_count=READ_COUNT, wait_seconds=READ_WAIT_SECONDS)
            except StreamsError as error:
                delay_seconds = backoff.next_delay()
                logger.warning("cannot read the inbox: %s; retry in %g s", error, delay_seconds)
                await asyncio.sleep(delay_seconds)
            else:
                backoff.reset()
                await self._take(entries)
                await self._gather()

    async def _take(self, entries: Sequence[InboxEntry]) -> None:
        """All of them, unless one has to wait."""
        for some in _slices(entries):
            is_last = not some or some[-1] is entries[-1]
            self.is_at_end = is_last and len(entries) < READ_COUNT
            is_held = not self._take_some(some)
            self._on_entries(len(some))
            if is_last or is_held:
                return
            await asyncio.sleep(0)

    def _take_some(self, entries: Sequence[InboxEntry]) -> bool:
        """Whether none of them has to wait."""
        for entry in entries:
            if not self._may_enter_behind(self.position):
                return False
            self._take_one(entry)
            self.position = entry.position
        return True

    async def _gather(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(SUPPLIED_SECONDS if self._is_supplied() else GATHERING_SECONDS):
                await self._is_awaited.wait()

    def _take_one(self, entry: InboxEntry) -> None:
        try:
            record = self._border.admit(entry.payload)
        except RejectedError as error:
            self._reject(entry, error)
        else:
            self._enter(position_of(entry.position), record)

    def _may_enter_behind(self, position: str) -> bool:
        held_at = self._held_at()
        return held_at is None or position_of(position) < position_of(held_at)


def _slices(entries: Sequence[InboxEntry]) -> Iterator[Sequence[InboxEntry]]:
    """At least one; of so many bytes, or one entry, or all that are left."""
    begin = num_bytes = 0
    for end, entry in enumerate(entries, 1):
        num_bytes += len(entry.payload)
        if num_bytes >= SLICE_BYTES or end == len(entries):
            yield entries[begin:end]
            begin, num_bytes = end, 0
    if not entries:
        yield entries


class RejectedRecords:
    """Of one learner, in the order of its inbox.

    While Redis does not take them it keeps as many as that stream would; the older ones are in the archive.
    """

    def __init__(self, streams: Streams, manager: RolloutManager) -> None:
        self._streams = streams
        self._ledger = manager.ledger
        self._unwritten: deque[DeadLetter] = deque(maxlen=MAX_DEAD_LETTERS)
        self._has_unwritten = asyncio.Event()

    def reject(self, entry: InboxEntry, error: RejectedError) -> None:
        """The record counts as never arrived; where it names no request, reconciliation finds that one has vanished."""
        cause = str(error)[:MAX_CAUSE_CHARACTERS]
        logger.warning("rejected record %s of the inbox: %s", entry.position, cause)
        self._ledger.reject(position_of(entry.position), error.answered, cause)
        self._unwritten.append(DeadLetter("inbox", entry.position, cause, entry.payload[:MAX_LETTER_BYTES]))
        self._has_unwritten.set()

    async def serve(self) -> None:
        """Write until cancelled, under the fence."""
        while True:
            await self._has_unwritten.wait()
            self._has_unwritten.clear()
            await until_redis_answers(self._write, "writing dead letters")

    async def _write(self) -> None:
        letters = list(self._unwritten)
        await self._streams.dead_letters.add_records(letters)
        while self._unwritten and position_of(self._unwritten[0].place) <= position_of(letters[-1].place):
            self._unwritten.popleft()


class MemoryPressure:
    """Of the server under one learner's streams, whose high-water mark `Streams.is_full` knows."""

    def __init__(self, streams: Streams, position: Callable[[], str], wake: Callable[[], None]) -> None:
        """`position`: up to where the inbox is in the ledger; `wake`: a checkpoint is requested."""
        self._streams = streams
        self._position = position
        self._wake = wake
        self._is_checkpoint_requested = False

    def take_checkpoint_request(self) -> bool:
        """Whether a checkpoint was requested since the last call."""
        is_requested, self._is_checkpoint_requested = self._is_checkpoint_requested, False
        return is_requested

    async def look(self) -> None:
        """Request a checkpoint when the server is full and one would let something be trimmed."""
        if not await self._streams.is_full():
            return
        oldest = await self._streams.inbox.read(BEGINNING, max_count=1, wait_seconds=0)
        if oldest and position_of(oldest[0].position) <= position_of(self._position()):
            logger.warning("Redis is full; committing a checkpoint to trim the inbox")
            self._is_checkpoint_requested = True
            self._wake()

    async def serve(self) -> None:
        """Look until cancelled."""
        while True:
            await asyncio.sleep(LOOK_AT_MEMORY_SECONDS)
            try:
                await self.look()
            except StreamsError as error:
                logger.warning("cannot read the server's memory: %s", error)
