"""The numbers of a function."""

from services.reward.statistics import FunctionStatistics
from tppo.rollout import Score, ScoreStatus


def test_percentiles_are_latencies_that_occurred() -> None:
    statistics = FunctionStatistics()
    for milliseconds in range(1, 101):
        statistics.record(Score("r", 0, ScoreStatus.ABSTAINED, duration_seconds=milliseconds / 1000))

    summary = statistics.summary()

    assert (summary["p50_seconds"], summary["p99_seconds"]) == (0.050, 0.099)


def test_the_mean_is_over_scored_answers_only() -> None:
    statistics = FunctionStatistics()
    statistics.record(Score("a", 0, ScoreStatus.SCORED, score=0.5))
    statistics.record(Score("b", 0, ScoreStatus.SCORED, score=1.0))
    statistics.record(Score("c", 0, ScoreStatus.TIMED_OUT))

    assert statistics.summary()["mean"] == 0.75


def test_without_calls_there_are_no_latencies() -> None:
    assert FunctionStatistics().summary()["p50_seconds"] is None
