"""Counts, scores and latencies of each reward function, for the service's heartbeat."""

import math
from collections import Counter, defaultdict, deque

from tppo.rollout import RewardRequest, Score, ScoreStatus

NUM_LATENCIES = 1000  # the percentiles are those of the last so many calls
NUM_FAILURES = 3  # kept of each function; they travel with every heartbeat
MAX_TEXT_CHARS = 500  # of a response or a cause
FAILURES = (ScoreStatus.FAILED, ScoreStatus.TIMED_OUT)


class FunctionStatistics:
    """Counts by status, the scores' mean and spread, the latency and the last failures of one function."""

    def __init__(self) -> None:
        self._counts: Counter[ScoreStatus] = Counter()
        self._mean = 0.0
        self._sum_of_squares = 0.0  # of the distances from the mean (Welford)
        self._seconds: deque[float] = deque(maxlen=NUM_LATENCIES)
        self._failures: deque[dict[str, object]] = deque(maxlen=NUM_FAILURES)

    def record(self, request: RewardRequest, score: Score) -> None:
        self._counts[score.status] += 1
        self._seconds.append(score.duration_seconds)
        if score.score is not None:
            distance = score.score - self._mean
            self._mean += distance / self._counts[ScoreStatus.SCORED]
            self._sum_of_squares += distance * (score.score - self._mean)
        if score.status in FAILURES:
            self._failures.append(_failure(request, score))

    def summary(self) -> dict[str, object]:
        """Numbers for the heartbeat; `mean` and `std` are over scored answers, None while there are too few."""
        num_scored = self._counts[ScoreStatus.SCORED]
        counts = {f"num_{status.name.lower()}": self._counts[status] for status in ScoreStatus}
        return {
            **counts,
            "mean": self._mean if num_scored else None,
            "std": math.sqrt(self._sum_of_squares / (num_scored - 1)) if num_scored > 1 else None,
            "p50_seconds": _percentile(self._seconds, 0.50),
            "p99_seconds": _percentile(self._seconds, 0.99),
            "last_failures": list(self._failures),
        }


class Statistics:
    """Statistics of all functions, and the last failure."""

    def __init__(self) -> None:
        self._functions: defaultdict[str, FunctionStatistics] = defaultdict(FunctionStatistics)
        self._last_error = ""

    def record(self, request: RewardRequest, score: Score) -> None:
        self._functions[score.function].record(request, score)
        if score.error:
            self._last_error = f"{score.function}: {score.status.name} {score.rollout_id}: {score.error}"

    def summary(self) -> dict[str, object]:
        """The status entries of the heartbeat."""
        functions = {name: statistics.summary() for name, statistics in self._functions.items()}
        return {"functions": functions, "last_error": self._last_error}


def _failure(request: RewardRequest, score: Score) -> dict[str, object]:
    return {
        "rollout_id": score.rollout_id,
        "attempt": score.attempt,
        "status": score.status.name,
        "error": _shortened(score.error),
        "response": _shortened(request.response),
    }


def _shortened(text: str) -> str:
    """The beginning and the end of a long text: an answer stands at the end."""
    half = MAX_TEXT_CHARS // 2
    return text if len(text) <= MAX_TEXT_CHARS else f"{text[:half]} … {text[-half:]}"


def _percentile(values: deque[float], share: float) -> float | None:
    """The smallest value that at least this share of them does not exceed."""
    if not values:
        return None
    return sorted(values)[math.ceil(share * len(values)) - 1]
