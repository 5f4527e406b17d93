"""The serving loop: leased requests in, scores out.

    _take      consumes reward requests / waits for room below `capacity`, then for a request
               unblocked by the learner, or by a lease of another service that expires / produces leases held
    _score     (one task per request that needs another process) consumes a lease / waits for a worker's or a user's
               process / unblocked by its answer, or by its deadline / produces a result
    _deliver   consumes results / waits for the next one / unblocked by a score / produces scores in the inbox, in
               batches; keeps them until Redis has them
    _renew     every third of a lease: keeps what is held
    _report    every heartbeat: announces the counts

A score may be made twice (a lease lost in mid-work), but is written once: `complete` refuses who lost the lease.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from services.reward.busy_clock import BusyClock
from services.reward.outcome import failed, score_of
from services.reward.scorer import Scorer
from tppo.cancellation import TaskGroup, cancel_all
from tppo.codec import decode_reward_request, encode_inbox_record
from tppo.patience import REDIS_ERRORS, until_redis_answers
from tppo.rollout import RewardRequest, Score, ScoreStatus
from tppo.streams import Lease, RequestQueue

log = logging.getLogger(__name__)

WAIT_SECONDS = 1.0  # one look for requests; a stop waits no longer than this
HEARTBEAT_SECONDS = 1.0
STOP_SECONDS = 3.0  # for the last delivery when the process stops
MAX_BATCH = 256

Announce = Callable[[Mapping[str, object]], Awaitable[None]]
LogResponse = Callable[[RewardRequest, Score], None]


@dataclass(frozen=True, slots=True)
class ServiceSettings:
    """What the loops need to know."""

    name: str  # as the queue knows this worker
    lease_seconds: float
    capacity: int  # requests held at once
    max_deliveries: int = 3  # of one request, before it fails


class RewardService:
    """Life of a request here: held -> (with a worker ->) in the outbox -> delivered; or handed back when it stops."""

    def __init__(
        self,
        settings: ServiceSettings,
        queue: RequestQueue,
        scorer: Scorer,
        *,
        announce: Announce,
        log_response: LogResponse = lambda request, score: None,
    ) -> None:
        self._settings = settings
        self._queue = queue
        self._scorer = scorer
        self._announce = announce
        self._log_response = log_response
        self._held: dict[str, Lease] = {}
        self._outbox: list[tuple[Lease, bytes]] = []
        self._scoring: set[asyncio.Task[None]] = set()
        self._num_leases_lost = 0
        self._busy = BusyClock()
        self._has_results = asyncio.Event()
        self._has_room = asyncio.Event()
        self._has_room.set()
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Take no new work, deliver what is done, hand back the rest; then `run` returns."""
        self._stopping.set()
        self._has_room.set()

    async def run(self) -> None:
        """Serve until `stop`."""
        async with TaskGroup() as group:
            taking = group.create_task(self._take(group))
            loops = [group.create_task(loop) for loop in (self._deliver(), self._renew(), self._report())]
            await self._stopping.wait()
            # a look for requests that is under way may lease some: let it end
            await asyncio.wait([taking], timeout=WAIT_SECONDS + 1)
            await cancel_all([taking, *loops, *self._scoring])
        await self._hand_back()

    def status(self) -> dict[str, object]:
        """What the heartbeat tells."""
        return {
            **self._scorer.statistics.summary(),
            "capacity": self._settings.capacity,
            "num_held": len(self._held),
            "busy_seconds": self._busy.seconds(),
            "num_leases_lost": self._num_leases_lost,
        }

    async def _take(self, group: TaskGroup) -> None:
        while not self._stopping.is_set():
            for lease in await until_redis_answers(self._lease, "leasing requests"):
                if lease.entry_id not in self._held:  # a lease that expired here, while Redis was away, comes again
                    self._held[lease.entry_id] = lease
                    self._busy.note(is_busy=True)
                    self._begin(lease, group)
            if len(self._held) >= self._settings.capacity and not self._stopping.is_set():
                self._has_room.clear()
            await self._has_room.wait()

    async def _lease(self) -> list[Lease]:
        room = self._settings.capacity - len(self._held)
        return await self._queue.lease(self._settings.name, max_count=room, wait_seconds=WAIT_SECONDS)

    def _begin(self, lease: Lease, group: TaskGroup) -> None:
        request = decode_reward_request(lease.payload)
        if lease.num_deliveries > self._settings.max_deliveries:
            cause = f"{lease.num_deliveries - 1} workers died over this request"
            self._post(lease, request, score_of(request, failed(cause), function=""))
            return
        if score := self._scorer.score_inline(request):
            self._post(lease, request, score)
            return
        task = group.create_task(self._score(lease, request))
        self._scoring.add(task)
        task.add_done_callback(self._scoring.discard)

    async def _score(self, lease: Lease, request: RewardRequest) -> None:
        self._post(lease, request, await self._scorer.score(request))

    def _post(self, lease: Lease, request: RewardRequest, score: Score) -> None:
        if score.status in (ScoreStatus.FAILED, ScoreStatus.TIMED_OUT):
            log.warning("%s: no score from %r: %s", score.rollout_id, score.function, score.error)
        self._log_response(request, score)
        self._outbox.append((lease, encode_inbox_record(score)))
        self._has_results.set()

    async def _deliver(self) -> None:
        while True:
            await self._has_results.wait()
            await until_redis_answers(self._deliver_batch, "delivering scores")

    async def _deliver_batch(self) -> None:
        batch = self._outbox[:MAX_BATCH]
        is_written = await self._queue.complete(self._settings.name, batch)
        self._num_leases_lost += is_written.count(False)
        del self._outbox[: len(batch)]
        for lease, _ in batch:
            del self._held[lease.entry_id]
        self._busy.note(is_busy=bool(self._held))
        if not self._outbox:
            self._has_results.clear()
        self._has_room.set()

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(self._settings.lease_seconds / 3)
            await until_redis_answers(self._renew_held, "renewing leases")

    async def _renew_held(self) -> None:
        await self._queue.renew(self._settings.name, list(self._held.values()))

    async def _report(self) -> None:
        while True:
            await until_redis_answers(lambda: self._announce(self.status()), "announcing")
            await asyncio.sleep(HEARTBEAT_SECONDS)

    async def _hand_back(self) -> None:
        """The last delivery, and the rest to other services."""
        try:
            async with asyncio.timeout(STOP_SECONDS):
                while self._outbox:
                    await self._deliver_batch()
                await self._queue.release(self._settings.name, list(self._held.values()))
        except (TimeoutError, *REDIS_ERRORS) as error:
            log.warning("%d requests not handed back (%s); their leases expire", len(self._held), error)
