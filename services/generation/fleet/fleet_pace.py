"""How fast this generator and the others of its run are, and so how long a window may take here."""

import math
import statistics
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping

from tppo.process.leased_worker import Announce
from tppo.process.presence import Presence
from tppo.rollout import Window, WindowRequest

MEMORY = 0.9  # of the mean pace, per window
SLACK = 2.0
"""A window may take this many times as long as with the median of the other generators."""
NUM_LOOKS = 11  # heartbeats, for the tokens a second
MIN_TOKENS = 8  # of a window that says something about the pace


class Speed:
    """Tokens a second over the last looks."""

    def __init__(self) -> None:
        self._looks: deque[tuple[float, int]] = deque(maxlen=NUM_LOOKS)

    def of(self, num_tokens: int, at_seconds: float) -> float | None:
        """At this look, which counts so many tokens since the start; None at the first."""
        self._looks.append((at_seconds, num_tokens))
        first_seconds, first_tokens = self._looks[0]
        return (num_tokens - first_tokens) / (at_seconds - first_seconds) if at_seconds > first_seconds else None


class FleetPace:
    """The pace is the seconds per token of a window that has its slot, prefill included."""

    def __init__(self, name: str, max_window_seconds: float | str = "none", *, lease_seconds: float = 0.0) -> None:
        """`max_window_seconds`: as in the configuration, a number, "auto" or "none"."""
        self._name = name
        self._looked_at = -math.inf
        self._lease_seconds = lease_seconds
        self._max_window_seconds = max_window_seconds
        self._others: float | None = None  # median of the other generators
        self.seconds_per_token: float | None = None

    def note(self, window: Window) -> None:
        """A window that was served here has ended."""
        if len(window.tokens) < MIN_TOKENS:
            return
        pace = max(0.0, window.ended_at - window.started_at) / len(window.tokens)
        before = self.seconds_per_token
        self.seconds_per_token = pace if before is None else MEMORY * before + (1.0 - MEMORY) * pace

    def observe(self, presences: Iterable[Presence]) -> None:
        """Take the pace of the others from their heartbeats."""
        others = [one.status for one in presences if one.kind == "generation" and one.name != self._name]
        paces = [status.get("seconds_per_token") for status in others]
        known = [float(pace) for pace in paces if isinstance(pace, int | float)]
        self._others = statistics.median(known) if known else None

    def bound_seconds(self, request: WindowRequest) -> float | None:
        """For which its window may run here; None: without limit."""
        if self._max_window_seconds == "none":
            return None
        if self._max_window_seconds != "auto":
            return float(self._max_window_seconds)
        if self._others is None:
            return None
        return max(self._lease_seconds, SLACK * self._others * request.max_new_tokens)

    def observing(self, announce: Announce, look: Callable[[], Awaitable[Iterable[Presence]]]) -> Announce:
        """Announce as before, and look at the others as often as a lease lasts, where their pace decides."""

        async def announce_and_look(status: Mapping[str, object]) -> None:
            await announce(status)
            if self._max_window_seconds == "auto" and time.monotonic() - self._looked_at >= self._lease_seconds:
                self.observe(await look())
                self._looked_at = time.monotonic()

        return announce_and_look
