"""Whose heartbeat is missing, by a clock that counts only the time in which this process itself ran."""

import time
from collections.abc import Callable

STALL_SECONDS = 3.0
"""A look that comes later than this after the one before: this process was frozen or starved, not the others."""
STARTING_SECONDS = 60.0
"""Of a rank that imports and loads: one import of a large library may hold up all threads of a process."""


class Silence:
    """Of the ranks on the other ends, looked at once per heartbeat."""

    def __init__(self, limit_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit, self._clock = limit_seconds, clock
        self._looked_at = clock()
        self._excused_until = self._looked_at
        """Nothing before this moment counts: this process did not run."""

    def look(self) -> None:
        """Once per heartbeat, before `seconds_beyond`."""
        now = self._clock()
        if now - self._looked_at > STALL_SECONDS:
            self._excused_until = now
        self._looked_at = now

    def seconds_beyond(self, heard_at: float, *, is_starting: bool) -> float | None:
        """For how long the heartbeat is missing, where that is too long; `heard_at`: the last one's time."""
        limit = max(self._limit, STARTING_SECONDS) if is_starting else self._limit
        missing = self._looked_at - max(heard_at, self._excused_until)
        return missing if missing > limit else None
