"""When a process that ended unexpectedly starts again: exponential back-off, forgiven after a healthy minute."""

from dataclasses import dataclass

from tppo.backoff import Backoff


@dataclass(frozen=True, kw_only=True)
class RestartRule:
    """How patient the supervisor is; all durations in seconds."""

    first_delay_seconds: float = 0.5
    longest_delay_seconds: float = 30.0
    healthy_seconds: float = 60.0
    """A process that lived this long starts with a clean record."""
    max_rapid_failures: int = 5
    """One failure more in a row, each before the process was healthy, and the supervisor gives up."""


class FailureRecord:
    """The failures in a row of one process."""

    def __init__(self, rule: RestartRule) -> None:
        self._rule = rule
        self._backoff = Backoff(first_seconds=rule.first_delay_seconds, longest_seconds=rule.longest_delay_seconds)
        self._num_in_a_row = 0

    def delay_after(self, uptime_seconds: float) -> float | None:
        """Seconds to wait after a failure at this age; None: give up."""
        if uptime_seconds >= self._rule.healthy_seconds:
            self._num_in_a_row = 0
            self._backoff.reset()
        self._num_in_a_row += 1
        if self._num_in_a_row > self._rule.max_rapid_failures:
            return None
        return self._backoff.next_delay()
