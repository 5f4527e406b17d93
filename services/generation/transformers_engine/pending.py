"""What the decode loop does at its next moment for it, and for how long it waits for more windows."""

import time
from concurrent.futures import Future
from dataclasses import dataclass, field

from services.generation.transformers_engine.decoders.decoder import Switch


@dataclass(eq=False, slots=True)
class PendingUpdate:
    """Weights that wait for their moment; newer ones replace them."""

    switch: Switch
    policy_version: int
    future: "Future[None]" = field(default_factory=Future)


@dataclass(frozen=True, slots=True)
class PendingSleep:
    """Waits for its moment."""

    keeps_weights: bool
    future: "Future[None]" = field(default_factory=Future)


@dataclass(slots=True)
class Gathering:
    """A time in which few windows stand still for more to come: a decode step of few takes nearly as long as of many.

    When it is over and in vain, there is no other one before there were enough. There is none before the first weights
    are replaced: until the learner has made a step it waits for these windows, and requests no others.
    """

    seconds: float
    is_worthwhile: bool = False
    _ends_at: float | None = None

    def seconds_left(self) -> float:
        """Of the one that goes on, or begins now."""
        if not self.is_worthwhile:
            return 0.0
        now = time.monotonic()
        if self._ends_at is None:
            self._ends_at = now + self.seconds
        return max(0.0, self._ends_at - now)

    def end(self) -> None:
        """There are enough."""
        self._ends_at = None
