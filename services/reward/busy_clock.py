"""How long a service has had work."""

import time
from collections.abc import Callable


class BusyClock:
    """Runs while there is work."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._sum = 0.0
        self._since: float | None = None

    def note(self, *, is_busy: bool) -> None:
        """From now on there is work, or none."""
        if is_busy and self._since is None:
            self._since = self._clock()
        elif not is_busy:
            self._sum, self._since = self.seconds(), None

    def seconds(self) -> float:
        """So far."""
        return self._sum if self._since is None else self._sum + self._clock() - self._since
