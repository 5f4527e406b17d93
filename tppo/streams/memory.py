"""The streams inside one process, under the same contract: for tests and simulations, with a clock of one's own."""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from copy import copy
from dataclasses import dataclass
from itertools import count, islice

from tppo.streams.contract import (
    BEGINNING,
    MAX_DEAD_LETTERS,
    MAX_WAIT_SECONDS,
    DeadLetter,
    DeadLetterCount,
    InboxEntry,
    Lease,
    Outstanding,
    QueueDepth,
    position_of,
)
from tppo.streams.dead_letters import bounded

Clock = Callable[[], float]


class MemoryStreams:
    """The streams of one run.

    `clock` counts seconds and decides which leases have expired; longer waits for a request are cut to
    `max_wait_seconds`.
    """

    def __init__(
        self, *, lease_seconds: float, clock: Clock = time.monotonic, max_wait_seconds: float = MAX_WAIT_SECONDS
    ) -> None:
        self.inbox = MemoryInbox()
        self.dead_letters = MemoryDeadLetters()
        self.has_no_room = False  # for tests
        self.window_requests = MemoryRequestQueue(self.inbox, lease_seconds, clock, max_wait_seconds)
        self.reward_requests = MemoryRequestQueue(self.inbox, lease_seconds, clock, max_wait_seconds)
        self.window_requests.bury_in(self.dead_letters, "window_requests")
        self.reward_requests.bury_in(self.dead_letters, "reward_requests")

    async def is_full(self) -> bool:
        """Never by itself."""
        return self.has_no_room

    async def discard(self) -> int:
        """All three at once."""
        return self.window_requests.clear() + self.reward_requests.clear() + self.inbox.clear()

    def reopened(self) -> "MemoryStreams":
        """The same entries, as a restarted process finds them."""
        streams = copy(self)
        streams.window_requests = self.window_requests.reopened()
        streams.reward_requests = self.reward_requests.reopened()
        return streams


@dataclass(slots=True)
class _Request:
    """An entry of a queue; `worker` is empty while nobody holds it."""

    payload: bytes
    worker: str = ""
    leased_at: float = 0.0
    num_deliveries: int = 0


class MemoryRequestQueue:
    """A dict of requests in the order in which they were put."""

    def __init__(
        self, inbox: "MemoryInbox", lease_seconds: float, clock: Clock, max_wait_seconds: float = MAX_WAIT_SECONDS
    ) -> None:
        self._inbox = inbox
        self._max_wait_seconds = max_wait_seconds
        self._lease_seconds = lease_seconds
        self._clock = clock
        self._requests: dict[str, _Request] = {}
        self._numbers = count(1)  # rises only: an id is never used again
        self._bell = _Bell()
        self._workers_known: set[str] = set()
        self._dead_letters, self._source = MemoryDeadLetters(), ""

    def bury_in(self, dead_letters: "MemoryDeadLetters", source: str) -> None:
        """Where rejected requests go."""
        self._dead_letters, self._source = dead_letters, source

    def reopened(self) -> "MemoryRequestQueue":
        """The same requests, with no memory of which workers have read their own entries."""
        queue = copy(self)
        queue._workers_known = set()
        return queue

    async def put(self, payloads: Sequence[bytes]) -> list[str]:
        """Append and wake those who wait."""
        added = {f"{next(self._numbers)}-0": _Request(payload) for payload in payloads}
        self._requests |= added
        self._bell.ring()
        return list(added)

    async def lease(self, worker: str, *, max_count: int, wait_seconds: float) -> list[Lease]:
        """Waits for the next `put` or `release` when there is nothing."""
        if max_count <= 0:
            return []
        taken = self._take(worker, max_count)
        if taken or wait_seconds <= 0:
            return taken
        await self._bell.wait(min(wait_seconds, self._max_wait_seconds))
        return self._take(worker, max_count)

    async def renew(self, worker: str, leases: Sequence[Lease]) -> None:
        """Restart the time of those still held."""
        for request in self._held(worker, leases):
            request.leased_at = self._clock()

    async def complete(self, worker: str, results: Sequence[tuple[Lease, bytes]]) -> list[bool]:
        """Nothing is awaited between the look and the writing, so no other task sees half of it."""
        return [self._complete_one(worker, lease, result) for lease, result in results]

    async def reject(self, worker: str, lease: Lease, cause: str) -> bool:
        """Nothing is awaited between the look and the writing."""
        if not any(self._held(worker, [lease])):
            return False
        self._dead_letters.bury(DeadLetter(self._source, lease.entry_id, cause, lease.payload))
        del self._requests[lease.entry_id]
        return True

    async def release(self, worker: str, leases: Sequence[Lease]) -> None:
        """Forget the worker and the delivery, and wake those who wait."""
        for request in self._held(worker, leases):
            request.worker = ""
            request.num_deliveries -= 1
        self._bell.ring()

    async def remaining(self, entry_ids: Sequence[str]) -> set[str]:
        """Those that are left in the dict."""
        return self._requests.keys() & set(entry_ids)

    async def outstanding(self, after: str = BEGINNING, *, max_count: int) -> list[Outstanding]:
        """What is left in the dict, whose order is that of the ids."""
        behind = (one for one in self._requests.items() if position_of(one[0]) > position_of(after))
        return [Outstanding(entry_id, request.payload) for entry_id, request in islice(behind, max_count)]

    def clear(self) -> int:
        """Forget all; how many there were."""
        num_requests = len(self._requests)
        self._requests.clear()
        return num_requests

    async def depth(self) -> QueueDepth:
        """Counted by who holds what."""
        num_leased = sum(bool(request.worker) for request in self._requests.values())
        return QueueDepth(len(self._requests) - num_leased, num_leased)

    def _take(self, worker: str, max_count: int) -> list[Lease]:
        taken = list(islice(dict.fromkeys(self._takeable(worker)), max_count))
        is_known = worker in self._workers_known
        self._workers_known.add(worker)
        return [self._deliver(entry_id, worker, is_known=is_known) for entry_id in taken]

    def _takeable(self, worker: str) -> Iterator[str]:
        """Own entries from before a restart, then free ones, then new ones; some come twice."""
        if worker not in self._workers_known:
            yield from (entry_id for entry_id, request in self._requests.items() if request.worker == worker)
        yield from (entry_id for entry_id, request in self._requests.items() if self._is_free(request))
        yield from (entry_id for entry_id, request in self._requests.items() if not request.num_deliveries)

    def _is_free(self, request: _Request) -> bool:
        """Delivered before, and released or expired since."""
        if not request.num_deliveries:
            return False
        return not request.worker or self._clock() - request.leased_at >= self._lease_seconds

    def _deliver(self, entry_id: str, worker: str, *, is_known: bool) -> Lease:
        request = self._requests[entry_id]
        if not (is_known and request.worker == worker):
            request.num_deliveries += 1
        request.worker = worker
        request.leased_at = self._clock()
        return Lease(entry_id, request.payload, request.num_deliveries)

    def _held(self, worker: str, leases: Sequence[Lease]) -> Iterator[_Request]:
        """The requests among the leases that are still this worker's."""
        for lease in leases:
            request = self._requests.get(lease.entry_id)
            if request is not None and request.worker == worker:
                yield request

    def _complete_one(self, worker: str, lease: Lease, result: bytes) -> bool:
        if not any(self._held(worker, [lease])):
            return False
        self._inbox.append_now([result])
        del self._requests[lease.entry_id]
        return True


class MemoryDeadLetters:
    """A list with the same bounds."""

    def __init__(self) -> None:
        self._letters: list[DeadLetter] = []
        self._num_dropped = 0
        self._inbox_position = (0, 0)

    def bury(self, letter: DeadLetter) -> None:
        """Add one, and drop the oldest beyond the bound."""
        self._letters.append(bounded(letter))
        num_surplus = max(0, len(self._letters) - MAX_DEAD_LETTERS)
        del self._letters[:num_surplus]
        self._num_dropped += num_surplus

    async def add_records(self, letters: Sequence[DeadLetter]) -> None:
        """Those beyond the last one."""
        for letter in letters:
            if position_of(letter.place) > self._inbox_position:
                self._inbox_position = position_of(letter.place)
                self.bury(letter)

    async def newest(self, count: int) -> list[DeadLetter]:
        """From the end of the list."""
        return self._letters[::-1][:count]

    async def count(self) -> DeadLetterCount:
        """Of this moment."""
        return DeadLetterCount(len(self._letters), self._num_dropped)


class MemoryInbox:
    """A list of payloads; position "n-0" is the n-th ever appended, counted from 1."""

    def __init__(self) -> None:
        self._payloads: list[bytes] = []
        self._num_trimmed = 0
        self._bell = _Bell()

    def append_now(self, payloads: Sequence[bytes]) -> None:
        """Append without a chance for other tasks to run."""
        self._payloads += payloads
        self._bell.ring()

    async def append(self, payloads: Sequence[bytes]) -> None:
        """Append and wake the reader."""
        self.append_now(payloads)

    async def read(self, after: str, *, max_count: int, wait_seconds: float) -> list[InboxEntry]:
        """Waits for the next `append` when there is nothing behind the position."""
        found = self._behind(after, max_count)
        if found or wait_seconds <= 0:
            return found
        await self._bell.wait(wait_seconds)
        return self._behind(after, max_count)

    async def trim(self, through: str) -> None:
        """Forget the entries up to the position."""
        num_surplus = min(max(0, position_of(through)[0] - self._num_trimmed), len(self._payloads))
        del self._payloads[:num_surplus]
        self._num_trimmed += num_surplus

    def clear(self) -> int:
        """Forget all; how many there were."""
        num_payloads = len(self._payloads)
        self._payloads.clear()
        self._num_trimmed += num_payloads
        return num_payloads

    async def last(self) -> str:
        """That of the last in the list."""
        return f"{self._num_trimmed + len(self._payloads)}-0" if self._payloads else BEGINNING

    async def length(self) -> int:
        """How many are left."""
        return len(self._payloads)

    def _behind(self, after: str, max_count: int) -> list[InboxEntry]:
        start = max(0, position_of(after)[0] - self._num_trimmed)
        found = self._payloads[start : start + max(0, max_count)]
        first = self._num_trimmed + start + 1
        return [InboxEntry(f"{number}-0", payload) for number, payload in enumerate(found, first)]


class _Bell:
    """Wakes all who wait, once per ring."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def ring(self) -> None:
        """Wake them; who waits from now on waits for the next ring."""
        self._event.set()
        self._event = asyncio.Event()

    async def wait(self, seconds: float) -> None:
        """Until the next ring, or for so long."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._event.wait(), min(seconds, MAX_WAIT_SECONDS))
