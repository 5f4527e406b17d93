"""What every worker of a request queue does: leased requests in, records in the inbox out.

    _take      consumes requests / waits until the handler is ready, for room below `capacity`, then for a request
               unblocked by the learner, or by a lease of another worker that expires / produces leases held
    _serve     (one task per request) consumes a lease / waits for the handler / produces a record
    _deliver   consumes records / waits for the next one / unblocked by `_serve` / produces entries of the inbox, all
               that are there in one round trip; keeps them until Redis has them
    _renew     every third of a lease: keeps what is held, whether it runs or waits
    beat       every heartbeat: announces the counts

A request here: leased -> held -> served -> delivered; or released when the worker stops or its handler hands it back;
or rejected, which moves it to the dead letters, where it names no work that anybody could do. A request may be served
twice (its lease was lost in mid-work), but is answered once: `complete` refuses who lost the lease. One that every
worker died over fails, so that it cannot kill them indefinitely.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from tppo.process.cancellation import TaskGroup, cancel_all
from tppo.process.presence import beat
from tppo.streams import Lease, RequestQueue, StreamsUnavailable, until_redis_answers
from tppo.streams.contract import MAX_CAUSE_CHARACTERS

log = logging.getLogger(__name__)

WAIT_SECONDS = 1.0  # one look for requests; a stop waits no longer than this
STOP_SECONDS = 3.0  # for the last delivery when the process stops
MAX_BATCH = 256  # records delivered in one round trip

Announce = Callable[[Mapping[str, object]], Awaitable[None]]


class PoisonRequestError(Exception):
    """A request that no worker can serve, nor answer."""


class HandedBackError(Exception):
    """A request that is to be served by another worker, or later: its lease is released."""


class RequestHandler(Protocol):
    """What a service does with the requests of its queue."""

    async def ready(self) -> None:
        """Returns when requests can be served; none is leased before, and it is called before each lease."""

    async def handle(self, payload: bytes) -> bytes:
        """The record that answers a request; cancelled when the worker stops.

        `PoisonRequestError` makes the request a dead letter, `HandedBackError` releases it; any other exception ends
        the worker.
        """

    def refuse(self, payload: bytes, cause: str) -> bytes:
        """The record of a request that fails without being served. Raises `PoisonRequestError`."""

    def status(self) -> Mapping[str, object]:
        """Its part of the heartbeat."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """Of one worker."""

    name: str  # as the queue knows it
    lease_seconds: float
    capacity: int  # requests held at once
    max_deliveries: int = 3  # of one request, before it fails
    isolates_suspects: bool = False  # serve a request on its last delivery with no other beside it
    hand_over_seconds: float = 0.0  # at a stop, for the requests under way to end early with what they have


class LeasedWorker:
    """Serves a queue by a handler until it is stopped."""

    def __init__(
        self,
        settings: WorkerSettings,
        queue: RequestQueue,
        handler: RequestHandler,
        announce: Announce,
        *,
        on_held: Callable[[int], None] = lambda num_held: None,
        hand_over: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """`on_held` is called with the number of requests held whenever it changes.

        `hand_over`, called at a stop, lets the requests under way end early; without it they are released as they are.
        """
        self._settings = settings
        self._queue = queue
        self._handler = handler
        self._announce = announce
        self._held = _HeldLeases(on_held)
        self._hand_over = hand_over
        self._serving: set[asyncio.Task[None]] = set()
        self._outbox: list[tuple[Lease, bytes]] = []
        self._has_records = asyncio.Event()
        self._is_leasing = False
        self._stopping = asyncio.Event()
        self._num_leases_lost = self._num_rejected = self._num_handed_back = 0

    def stop(self) -> None:
        """After SIGTERM: take no new work, hand over what is under way, release the rest; then `run` returns."""
        self._stopping.set()
        self._held.wake()

    async def run(self) -> None:
        """Serve until `stop`."""
        async with TaskGroup() as group:
            taking = group.create_task(self._take(group))
            announcing = beat(lambda: self._announce(self.status()))
            loops = [group.create_task(loop) for loop in (self._deliver(), self._renew(), announcing)]
            await self._stopping.wait()
            handing_over = group.create_task(self._hand_all_over(), name="handing over")
            if self._is_leasing:  # it may lease some in this moment
                await asyncio.wait([taking], timeout=WAIT_SECONDS + 1)
            await asyncio.wait([handing_over])
            await cancel_all([taking, *loops, *self._serving])
        await self._release_all()

    def status(self) -> dict[str, object]:
        """What a heartbeat reports."""
        return {
            **self._handler.status(),
            "capacity": self._settings.capacity,
            "num_held": len(self._held),
            "num_leases_lost": self._num_leases_lost,
            "num_rejected": self._num_rejected,
            "num_handed_back": self._num_handed_back,
        }

    async def _take(self, group: TaskGroup) -> None:
        while not self._stopping.is_set():
            await self._handler.ready()
            fresh = await until_redis_answers(self._lease, "leasing requests")
            suspect = next(filter(self._is_suspect, fresh), None)
            if suspect is not None:
                await self._serve_alone(suspect, fresh, group)
                continue
            for lease in fresh:
                self._begin(lease, group)
            await self._room_below(self._settings.capacity)

    async def _lease(self) -> list[Lease]:
        room = self._settings.capacity - len(self._held)
        self._is_leasing = True
        try:
            leases = await self._queue.lease(self._settings.name, max_count=room, wait_seconds=WAIT_SECONDS)
        finally:
            self._is_leasing = False
        return [lease for lease in leases if lease not in self._held]  # one that expired while Redis was away returns

    def _is_suspect(self, lease: Lease) -> bool:
        """Every worker but one may have died over it."""
        return self._settings.isolates_suspects and lease.num_deliveries == self._settings.max_deliveries

    async def _serve_alone(self, suspect: Lease, fresh: Sequence[Lease], group: TaskGroup) -> None:
        """Release the others, let what runs end, and take nothing until this one has, so that it alone is blamed."""
        log.warning("%s was delivered %d times; serving it alone", suspect.entry_id, suspect.num_deliveries)
        others = [lease for lease in fresh if lease is not suspect]
        self._held.add(suspect)
        await until_redis_answers(lambda: self._queue.release(self._settings.name, others), "releasing requests")
        await self._room_below(2)
        if not self._stopping.is_set():
            self._begin(suspect, group)
        await self._room_below(1)

    def _begin(self, lease: Lease, group: TaskGroup) -> None:
        self._held.add(lease)
        task = group.create_task(self._serve(lease))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _serve(self, lease: Lease) -> None:
        try:
            self._post(lease, await self._record_for(lease))
        except PoisonRequestError as error:
            await self._reject(lease, str(error))
        except HandedBackError as error:
            await self._hand_back(lease, str(error))

    async def _record_for(self, lease: Lease) -> bytes:
        if lease.num_deliveries > self._settings.max_deliveries:
            num_ended = lease.num_deliveries - 1
            return self._handler.refuse(lease.payload, f"{num_ended} workers ended while serving this request")
        return await self._handler.handle(lease.payload)

    async def _reject(self, lease: Lease, cause: str) -> None:
        """Who sent the request finds it gone, and resends it if it still waits for the answer."""
        log.warning("request %s is moved to the dead letters: %s", lease.entry_id, cause[:MAX_CAUSE_CHARACTERS])
        await until_redis_answers(lambda: self._queue.reject(self._settings.name, lease, cause), "rejecting a request")
        self._num_rejected += 1
        self._held.remove([lease])

    async def _hand_back(self, lease: Lease, cause: str) -> None:
        log.info("request %s is handed back: %s", lease.entry_id, cause)
        self._num_handed_back += 1
        self._held.remove([lease])  # first: this worker may lease it again in the very moment of the release
        await until_redis_answers(lambda: self._queue.release(self._settings.name, [lease]), "releasing a request")

    async def _hand_all_over(self) -> None:
        """Give the requests under way their time to end early."""
        if self._hand_over is None or not self._settings.hand_over_seconds:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._settings.hand_over_seconds):
                await self._hand_over()
                while self._serving:
                    await asyncio.wait(self._serving)

    def _post(self, lease: Lease, record: bytes) -> None:
        self._outbox.append((lease, record))
        self._has_records.set()

    async def _room_below(self, num_held: int) -> None:
        """Until fewer than so many are held, or a stop."""
        while len(self._held) >= num_held and not self._stopping.is_set():
            await self._held.change()

    async def _deliver(self) -> None:
        while True:
            await self._has_records.wait()
            await until_redis_answers(self._deliver_batch, "delivering results")

    async def _deliver_batch(self) -> None:
        batch = self._outbox[:MAX_BATCH]
        is_written = await self._queue.complete(self._settings.name, batch)
        self._num_leases_lost += is_written.count(False)
        del self._outbox[: len(batch)]
        if not self._outbox:
            self._has_records.clear()
        self._held.remove(lease for lease, _ in batch)

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(self._settings.lease_seconds / 3)
            await until_redis_answers(self._renew_held, "renewing leases")

    async def _renew_held(self) -> None:
        await self._queue.renew(self._settings.name, self._held.all())

    async def _release_all(self) -> None:
        """The last delivery, and the rest to other workers."""
        try:
            async with asyncio.timeout(STOP_SECONDS):
                while self._outbox:
                    await self._deliver_batch()
                await self._queue.release(self._settings.name, self._held.all())
        except (TimeoutError, StreamsUnavailable) as error:
            log.warning("%d requests not released (%s); their leases expire", len(self._held), error)


class _HeldLeases:
    """The leases between `lease` and `complete`."""

    def __init__(self, on_change: Callable[[int], None]) -> None:
        self._leases: dict[str, Lease] = {}
        self._on_change = on_change
        self._has_changed = asyncio.Event()

    def __len__(self) -> int:
        return len(self._leases)

    def __contains__(self, lease: Lease) -> bool:
        return lease.entry_id in self._leases

    def all(self) -> list[Lease]:
        return list(self._leases.values())

    def add(self, lease: Lease) -> None:
        self._leases[lease.entry_id] = lease
        self._on_change(len(self))

    def remove(self, leases: Iterable[Lease]) -> None:
        for lease in leases:
            del self._leases[lease.entry_id]
        self.wake()
        self._on_change(len(self))

    def wake(self) -> None:
        """Let `change` return."""
        self._has_changed.set()

    async def change(self) -> None:
        """Until some are removed, or a `wake`."""
        self._has_changed.clear()
        await self._has_changed.wait()
