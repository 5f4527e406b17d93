"""The serving loop: leased window requests in, windows out.

    _take      consumes window requests / waits for the first weights, for room below `capacity`, then for a request
               unblocked by the learner, or by a lease of another generator that expires / produces leases held
    _generate  (one task per request) consumes a lease / waits for weights that are new enough, then for the engine
               unblocked by the weight intake and the decode loop / produces a result
    _report    every heartbeat: announces the counts
    deliver, renew   see `tppo.held_requests`

A request that every worker died over but one is served alone, so that no other is blamed for its death; after that it
fails. A window may be generated twice (a lease lost in mid-work), but is written once: `complete` refuses who lost the
lease.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from services.generation.engine import Engine
from services.generation.served_weights import ServedWeights
from tppo.cancellation import TaskGroup, cancel_all
from tppo.codec import decode_window_request, encode_inbox_record
from tppo.held_requests import HeldRequests
from tppo.presence import HEARTBEAT_SECONDS
from tppo.rollout import FinishReason, Window, WindowRequest, logprobs, tokens
from tppo.streams import Lease, RequestQueue, until_redis_answers

log = logging.getLogger(__name__)

Announce = Callable[[Mapping[str, object]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class ServiceSettings:
    """What the loops need to know."""

    name: str  # as the queue knows this worker
    lease_seconds: float
    capacity: int  # requests held at once: those that run and those fetched ahead
    max_deliveries: int = 3  # of one request, before it fails


class GenerationService:
    """Life of a request here: held -> with the engine -> in the outbox -> delivered; or handed back at a stop."""

    def __init__(
        self,
        settings: ServiceSettings,
        queue: RequestQueue,
        engine: Engine,
        weights: ServedWeights,
        announce: Announce,
    ) -> None:
        self._settings = settings
        self._held = HeldRequests(queue, worker=settings.name, lease_seconds=settings.lease_seconds)
        self._engine = engine
        self._weights = weights
        self._announce = announce
        self._generating: set[asyncio.Task[None]] = set()
        self._num_windows = self._num_failed = 0
        self._last_error = ""

    def stop(self) -> None:
        """Take no new work, deliver what is done, hand back the rest; then `run` returns."""
        self._held.stop()

    async def run(self) -> None:
        """Serve until `stop`."""
        async with TaskGroup() as group:
            taking = group.create_task(self._take(group))
            loops = [group.create_task(loop) for loop in (self._held.deliver(), self._held.renew(), self._report())]
            await self._held.until_stopped(taking)
            await cancel_all([taking, *loops, *self._generating])
        await self._held.hand_back()

    def status(self) -> dict[str, object]:
        """What the heartbeat tells."""
        identity = self._weights.identity
        return {
            **asdict(self._engine.statistics()),
            "policy_version": self._engine.policy_version,
            "incarnation": identity.incarnation if identity else 0,
            "digest": self._weights.digest,
            "num_held": len(self._held),
            "num_windows": self._num_windows,
            "num_failed": self._num_failed,
            "num_leases_lost": self._held.num_leases_lost,
            "last_error": self._last_error,
        }

    async def _take(self, group: TaskGroup) -> None:
        await self._weights.at_least(0)
        while not self._held.is_stopping:
            fresh = await self._held.lease(self._settings.capacity)
            suspect = next((lease for lease in fresh if lease.num_deliveries == self._settings.max_deliveries), None)
            if suspect is not None:
                await self._serve_alone(suspect, fresh, group)
                continue
            for lease in fresh:
                self._begin(lease, group)
            await self._held.room_below(self._settings.capacity)

    async def _serve_alone(self, suspect: Lease, fresh: Sequence[Lease], group: TaskGroup) -> None:
        """Hand the others back, let what runs end, and take nothing until this one has."""
        log.warning("%s was delivered %d times; serving it alone", suspect.entry_id, suspect.num_deliveries)
        others = [lease for lease in fresh if lease is not suspect]
        self._held.hold(suspect)
        await self._held.release(others)
        await self._held.room_below(2)
        if not self._held.is_stopping:
            self._begin(suspect, group)
        await self._held.room_below(1)

    def _begin(self, lease: Lease, group: TaskGroup) -> None:
        self._held.hold(lease)
        request = decode_window_request(lease.payload)
        if lease.num_deliveries > self._settings.max_deliveries:
            num_dead = lease.num_deliveries - 1
            self._post(lease, self._failed(request, time.time(), f"{num_dead} workers died over this request"))
            return
        task = group.create_task(self._generate(lease, request))
        self._generating.add(task)
        task.add_done_callback(self._generating.discard)

    async def _generate(self, lease: Lease, request: WindowRequest) -> None:
        await self._weights.at_least(request.min_policy_version)
        started_at = time.time()
        try:
            window = await self._engine.generate(request)
        except ValueError as error:
            window = self._failed(request, started_at, str(error))
        self._post(lease, window)

    def _failed(self, request: WindowRequest, started_at: float, error: str) -> Window:
        log.warning("window %d of %s failed: %s", request.window_index, request.rollout_id, error)
        self._last_error = error
        self._num_failed += 1
        return _failed_window(request, started_at, error)

    def _post(self, lease: Lease, window: Window) -> None:
        self._num_windows += 1
        self._held.post(lease, encode_inbox_record(replace(window, generator=self._settings.name)))

    async def _report(self) -> None:
        while True:
            await until_redis_answers(lambda: self._announce(self.status()), "announcing")
            await asyncio.sleep(HEARTBEAT_SECONDS)


def _failed_window(request: WindowRequest, started_at: float, error: str) -> Window:
    return Window(
        rollout_id=request.rollout_id,
        window_index=request.window_index,
        tokens=tokens(),
        logprobs=logprobs(),
        version_spans=(),
        finish_reason=FinishReason.FAILED,
        started_at=started_at,
        ended_at=time.time(),
        error=error,
        is_evaluation=request.is_evaluation,
    )
