"""Exponential back-off between retries: the one rule of every loop that tries again."""

import random


class Backoff:
    """Delays that double from the first to the longest; `jitter` is the share of each that is left to chance."""

    def __init__(self, *, first_seconds: float, longest_seconds: float, jitter: float = 0.0) -> None:
        self._first_seconds = first_seconds
        self._longest_seconds = longest_seconds
        self._jitter = jitter
        self._next_seconds = first_seconds

    def next_delay(self) -> float:
        """Seconds to wait before the next attempt."""
        delay_seconds = self._next_seconds
        self._next_seconds = min(2 * delay_seconds, self._longest_seconds)
        return delay_seconds * (1 - self._jitter * random.random())

    def reset(self) -> None:
        """An attempt succeeded: the next failure begins with the first delay."""
        self._next_seconds = self._first_seconds
