"""What the generator does with a window request: waits for weights that are new enough, then runs the engine."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, replace

from services.generation.engine import Engine
from services.generation.fleet.fleet_pace import FleetPace, Speed
from services.generation.fleet.free_slots import FreeSlots
from services.generation.fleet.handover import Handover
from services.generation.requests import failed_window
from services.generation.weights.served_weights import ServedWeights
from tppo.announced_weights import AnnouncedWeights
from tppo.codec import decode_window_request, encode_inbox_record
from tppo.process.leased_worker import PoisonRequestError
from tppo.rollout import Window, WindowRequest
from tppo.streams import StreamsError

log = logging.getLogger(__name__)

UNANNOUNCED_SECONDS = 120.0  # for which a request waits for weights that the learner has not announced
Announced = Callable[[], Awaitable[AnnouncedWeights | None]]


class WindowHandler:
    """Serves window requests for a `LeasedWorker`."""

    def __init__(
        self,
        name: str,
        engine: Engine,
        weights: ServedWeights,
        announced: Announced,
        *,
        free_slots: FreeSlots | None = None,
        handover: Handover | None = None,
        pace: FleetPace | None = None,
        unannounced_seconds: float = UNANNOUNCED_SECONDS,
    ) -> None:
        """`name` is the generator's, which every window bears; `announced`: the learner's newest weights.

        `free_slots`: what its windows leave to guests; None: there are no guests.
        """
        self._name = name
        self._engine = engine
        self._slots = free_slots or FreeSlots(engine.num_slots)
        self._handover = handover or Handover(engine)
        self._pace = pace or FleetPace(name)
        self._weights = weights
        self._announced = announced
        self._unannounced_seconds = unannounced_seconds
        self._num_windows = self._num_failed = 0
        self._speed = Speed()
        self._last_error = ""

    async def ready(self) -> None:
        """While there are weights that are not disproved."""
        await self._weights.at_least(0)

    async def handle(self, payload: bytes) -> bytes:
        """The window; a failed one where the engine can never serve the request.

        A generator whose weights are behind the required version waits for newer ones first, as long as the learner
        has announced them. `HandedBackError`: its window was cut before it was worth posting, or its weights turned
        out not to be what the learner thinks.
        """
        request = _decoded(payload)
        async with self._weights.serving():
            with self._handover.waiting():
                await self._await_weights(request.min_policy_version)
            window = await self._window(request)
            await self._weights.vouch_for(window)
        return self._record(window)

    async def _window(self, request: WindowRequest) -> Window:
        started_at = time.time()
        try:
            with self._slots.window():
                window = await self._handover.window(request)
        except ValueError as error:
            return self._failed(request, started_at, str(error))
        self._pace.note(window)
        return window

    def refuse(self, payload: bytes, cause: str) -> bytes:
        """A failed window."""
        return self._record(self._failed(_decoded(payload), time.time(), cause))

    def status(self) -> Mapping[str, object]:
        """The engine's counts, the weights in use and the windows so far."""
        statistics = self._engine.statistics()
        return {
            **asdict(statistics),
            **self._weights.status(),
            "tokens_per_second": self._speed.of(statistics.num_tokens_generated, time.monotonic()),
            "num_windows": self._num_windows,
            "num_cut": self._handover.num_cut,
            "seconds_per_token": self._pace.seconds_per_token,
            "num_failed": self._num_failed,
            "last_error": self._last_error,
        }

    async def _await_weights(self, policy_version: int) -> None:
        while True:
            try:
                async with asyncio.timeout(self._unannounced_seconds):
                    return await self._weights.at_least(policy_version)
            except TimeoutError:
                await self._require_announced(policy_version)

    async def _require_announced(self, policy_version: int) -> None:
        """Raise `PoisonRequestError` for weights that the learner does not have; where Redis does not say, wait on."""
        try:
            newest = await self._announced()
        except StreamsError as error:
            log.warning("a request waits for policy version %d; what was announced: %s", policy_version, error)
            return
        if newest is not None and newest.policy_version < policy_version:
            raise PoisonRequestError(
                f"min_policy_version {policy_version}; expected at most {newest.policy_version}, the newest that the "
                f"learner has announced, after {self._unannounced_seconds:g} s"
            )

    def _record(self, window: Window) -> bytes:
        self._num_windows += 1
        return encode_inbox_record(replace(window, generator=self._name))

    def _failed(self, request: WindowRequest, started_at: float, error: str) -> Window:
        log.warning("window %d of %s failed: %s", request.window_index, request.rollout_id, error)
        self._last_error = error
        self._num_failed += 1
        return failed_window(request, error, started_at=started_at)


def _decoded(payload: bytes) -> WindowRequest:
    try:
        request = decode_window_request(payload)
    except ValueError as error:
        raise PoisonRequestError(str(error)) from None
    if not request.rollout_id:
        raise PoisonRequestError("the window request has no rollout_id")
    return request
