"""The serving loop: leased requests in, scores out.

    _take      consumes reward requests / waits for room below `capacity`, then for a request
               unblocked by the learner, or by a lease of another service that expires / produces leases held
    _score     (one task per request that needs another process) consumes a lease / waits for a worker's or a user's
               process / unblocked by its answer, or by its deadline / produces a result
    _report    every heartbeat: announces the counts
    deliver, renew   see `tppo.held_requests`

A score may be made twice (a lease lost in mid-work), but is written once: `complete` refuses who lost the lease.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from services.reward.busy_clock import BusyClock
from services.reward.scorer import Scorer, score_of
from tppo.cancellation import TaskGroup, cancel_all
from tppo.codec import decode_reward_request, encode_inbox_record
from tppo.held_requests import HeldRequests
from tppo.presence import HEARTBEAT_SECONDS
from tppo.rollout import RewardRequest, Score, ScoreStatus
from tppo.score_outcome import failed
from tppo.streams import Lease, RequestQueue, until_redis_answers

log = logging.getLogger(__name__)

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
        self._scorer = scorer
        self._announce = announce
        self._log_response = log_response
        self._scoring: set[asyncio.Task[None]] = set()
        self._busy = BusyClock()
        self._held = HeldRequests(
            queue,
            worker=settings.name,
            lease_seconds=settings.lease_seconds,
            on_change=lambda num_held: self._busy.note(is_busy=num_held > 0),
        )

    def stop(self) -> None:
        """Take no new work, deliver what is done, hand back the rest; then `run` returns."""
        self._held.stop()

    async def run(self) -> None:
        """Serve until `stop`."""
        async with TaskGroup() as group:
            taking = group.create_task(self._take(group))
            loops = [group.create_task(loop) for loop in (self._held.deliver(), self._held.renew(), self._report())]
            await self._held.until_stopped(taking)
            await cancel_all([taking, *loops, *self._scoring])
        await self._held.hand_back()

    def status(self) -> dict[str, object]:
        """What the heartbeat tells."""
        return {
            **self._scorer.statistics.summary(),
            "capacity": self._settings.capacity,
            "num_held": len(self._held),
            "busy_seconds": self._busy.seconds(),
            "num_leases_lost": self._held.num_leases_lost,
        }

    async def _take(self, group: TaskGroup) -> None:
        while not self._held.is_stopping:
            for lease in await self._held.lease(self._settings.capacity):
                self._begin(lease, group)
            await self._held.room_below(self._settings.capacity)

    def _begin(self, lease: Lease, group: TaskGroup) -> None:
        self._held.hold(lease)
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
        self._held.post(lease, encode_inbox_record(score))

    async def _report(self) -> None:
        while True:
            await until_redis_answers(lambda: self._announce(self.status()), "announcing")
            await asyncio.sleep(HEARTBEAT_SECONDS)
