"""What the generator does with a window request: waits for weights that are new enough, then runs the engine."""

import logging
import time
from collections.abc import Mapping
from dataclasses import asdict, replace

from services.generation.engine import Engine
from services.generation.served_weights import ServedWeights
from tppo.codec import decode_window_request, encode_inbox_record
from tppo.rollout import FinishReason, Window, WindowRequest, logprobs, tokens

log = logging.getLogger(__name__)


class WindowHandler:
    """Serves window requests for a `LeasedWorker`."""

    def __init__(self, name: str, engine: Engine, weights: ServedWeights) -> None:
        """`name` is the generator's, which every window bears."""
        self._name = name
        self._engine = engine
        self._weights = weights
        self._num_windows = self._num_failed = 0
        self._last_error = ""

    async def ready(self) -> None:
        """Once there are weights."""
        await self._weights.at_least(0)

    async def handle(self, payload: bytes) -> bytes:
        """The window; a failed one where the engine can never serve the request.

        A generator whose weights are behind the required version waits for newer ones first.
        """
        request = decode_window_request(payload)
        await self._weights.at_least(request.min_policy_version)
        started_at = time.time()
        try:
            window = await self._engine.generate(request)
        except ValueError as error:
            window = self._failed(request, started_at, str(error))
        return self._record(window)

    def refuse(self, payload: bytes, cause: str) -> bytes:
        """A failed window."""
        return self._record(self._failed(decode_window_request(payload), time.time(), cause))

    def status(self) -> Mapping[str, object]:
        """The engine's counts, the weights in use and the windows so far."""
        identity = self._weights.identity
        return {
            **asdict(self._engine.statistics()),
            "policy_version": self._engine.policy_version,
            "incarnation": identity.incarnation if identity else 0,
            "digest": self._weights.digest,
            "num_windows": self._num_windows,
            "num_failed": self._num_failed,
            "last_error": self._last_error,
        }

    def _record(self, window: Window) -> bytes:
        self._num_windows += 1
        return encode_inbox_record(replace(window, generator=self._name))

    def _failed(self, request: WindowRequest, started_at: float, error: str) -> Window:
        log.warning("window %d of %s failed: %s", request.window_index, request.rollout_id, error)
        self._last_error = error
        self._num_failed += 1
        return _failed_window(request, started_at, error)


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
