"""What each reward function has done so far, as the service's heartbeat tells it."""

import math
from collections import Counter, defaultdict, deque

from tppo.rollout import Score, ScoreStatus

NUM_LATENCIES = 1000  # the percentiles are those of the last so many calls


class FunctionStatistics:
    """Counts by status, the mean score and the latency of one function."""

    def __init__(self) -> None:
        self._counts: Counter[ScoreStatus] = Counter()
        self._sum = 0.0
        self._seconds: deque[float] = deque(maxlen=NUM_LATENCIES)

    def record(self, score: Score) -> None:
        """Count one answer."""
        self._counts[score.status] += 1
        self._sum += score.score or 0.0
        self._seconds.append(score.duration_seconds)

    def summary(self) -> dict[str, float | None]:
        """Numbers for the heartbeat; `mean` is over scored answers, None while there is none."""
        num_scored = self._counts[ScoreStatus.SCORED]
        counts = {f"num_{status.name.lower()}": self._counts[status] for status in ScoreStatus}
        return {
            **counts,
            "mean": self._sum / num_scored if num_scored else None,
            "p50_seconds": _percentile(self._seconds, 0.50),
            "p99_seconds": _percentile(self._seconds, 0.99),
        }


class Statistics:
    """Statistics of all functions, and the last failure."""

    def __init__(self) -> None:
        self._functions: defaultdict[str, FunctionStatistics] = defaultdict(FunctionStatistics)
        self._last_error = ""

    def record(self, score: Score) -> None:
        """Count one answer of the function that it names."""
        self._functions[score.function].record(score)
        if score.error:
            self._last_error = f"{score.function}: {score.status.name} {score.rollout_id}: {score.error}"

    def summary(self) -> dict[str, object]:
        """The status entries of the heartbeat."""
        functions = {name: statistics.summary() for name, statistics in self._functions.items()}
        return {"functions": functions, "last_error": self._last_error}


def _percentile(values: deque[float], share: float) -> float | None:
    """The smallest value that at least this share of them does not exceed."""
    if not values:
        return None
    return sorted(values)[math.ceil(share * len(values)) - 1]
