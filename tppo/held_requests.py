"""The requests that a worker holds under leases, from the queue until what came of them is in the inbox.

deliver   consumes results / waits for the next one / unblocked by `post` / produces records in the inbox, all that
          are there in one round trip; keeps them until Redis has them
renew     every third of a lease: keeps what is held, whether it runs or waits
"""

import asyncio
import logging
from collections.abc import Callable, Sequence

from tppo.streams import Lease, RequestQueue, StreamsUnavailable, until_redis_answers

log = logging.getLogger(__name__)

WAIT_SECONDS = 1.0  # one look for requests; a stop waits no longer than this
STOP_SECONDS = 3.0  # for the last delivery when the process stops
MAX_BATCH = 256


class HeldRequests:
    """Life of a request here: held -> posted -> delivered; or handed back at a stop."""

    def __init__(
        self,
        queue: RequestQueue,
        *,
        worker: str,
        lease_seconds: float,
        on_change: Callable[[int], None] = lambda num_held: None,
    ) -> None:
        self._queue = queue
        self._worker = worker
        self._lease_seconds = lease_seconds
        self._on_change = on_change
        self._held: dict[str, Lease] = {}
        self._outbox: list[tuple[Lease, bytes]] = []
        self._is_leasing = False
        self._has_results = asyncio.Event()
        self._has_room = asyncio.Event()
        self._stopping = asyncio.Event()
        self.num_leases_lost = 0

    def __len__(self) -> int:
        """How many are held."""
        return len(self._held)

    @property
    def is_stopping(self) -> bool:
        """Whether no new work is taken any more."""
        return self._stopping.is_set()

    def stop(self) -> None:
        """Take no new work."""
        self._stopping.set()
        self._has_room.set()

    async def until_stopped(self, taking: asyncio.Task[None]) -> None:
        """Until a stop, and until a look for requests that is under way has ended: it may lease some."""
        await self._stopping.wait()
        if self._is_leasing:
            await asyncio.wait([taking], timeout=WAIT_SECONDS + 1)

    async def lease(self, capacity: int) -> list[Lease]:
        """A look for requests, while fewer than `capacity` are held; what comes is not held yet."""
        leases = await until_redis_answers(lambda: self._lease(capacity - len(self)), "leasing requests")
        # a lease that expired here, while Redis was away, comes again
        return [lease for lease in leases if lease.entry_id not in self._held]

    def hold(self, lease: Lease) -> None:
        """Keep the lease until its result is delivered."""
        self._held[lease.entry_id] = lease
        self._on_change(len(self))

    def post(self, lease: Lease, record: bytes) -> None:
        """What came of a request that is held."""
        self._outbox.append((lease, record))
        self._has_results.set()

    async def release(self, leases: Sequence[Lease]) -> None:
        """Give others what was leased and is not held."""
        await until_redis_answers(lambda: self._queue.release(self._worker, leases), "handing back requests")

    async def room_below(self, num_held: int) -> None:
        """Until fewer than so many are held, or a stop."""
        while len(self) >= num_held and not self.is_stopping:
            self._has_room.clear()
            await self._has_room.wait()

    async def deliver(self) -> None:
        """See the module."""
        while True:
            await self._has_results.wait()
            await until_redis_answers(self._deliver_batch, "delivering results")

    async def renew(self) -> None:
        """See the module."""
        while True:
            await asyncio.sleep(self._lease_seconds / 3)
            await until_redis_answers(self._renew_held, "renewing leases")

    async def hand_back(self) -> None:
        """The last delivery, and the rest to others."""
        try:
            async with asyncio.timeout(STOP_SECONDS):
                while self._outbox:
                    await self._deliver_batch()
                await self._queue.release(self._worker, list(self._held.values()))
        except (TimeoutError, StreamsUnavailable) as error:
            log.warning("%d requests not handed back (%s); their leases expire", len(self), error)

    async def _lease(self, room: int) -> list[Lease]:
        self._is_leasing = True
        try:
            return await self._queue.lease(self._worker, max_count=room, wait_seconds=WAIT_SECONDS)
        finally:
            self._is_leasing = False

    async def _renew_held(self) -> None:
        await self._queue.renew(self._worker, list(self._held.values()))

    async def _deliver_batch(self) -> None:
        batch = self._outbox[:MAX_BATCH]
        is_written = await self._queue.complete(self._worker, batch)
        self.num_leases_lost += is_written.count(False)
        del self._outbox[: len(batch)]
        for lease, _ in batch:
            del self._held[lease.entry_id]
        if not self._outbox:
            self._has_results.clear()
        self._has_room.set()
        self._on_change(len(self))
