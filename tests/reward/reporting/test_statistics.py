"""The numbers of a function."""

import pytest

from services.reward.reporting.statistics import FunctionStatistics
from tppo.rollout import RewardRequest, Score, ScoreStatus

REQUEST = RewardRequest("r", 0, "math", "2+2?", "four", "4")


def test_percentiles_are_latencies_that_occurred() -> None:
    statistics = FunctionStatistics()
    for milliseconds in range(1, 101):
        statistics.record(REQUEST, Score("r", 0, ScoreStatus.ABSTAINED, duration_seconds=milliseconds / 1000))

    summary = statistics.summary()

    assert (summary["p50_seconds"], summary["p99_seconds"]) == (0.050, 0.099)


def test_mean_and_spread_are_over_scored_answers_only() -> None:
    statistics = FunctionStatistics()
    for score in (0.0, 0.5, 1.0):
        statistics.record(REQUEST, Score("a", 0, ScoreStatus.SCORED, score=score))
    statistics.record(REQUEST, Score("c", 0, ScoreStatus.TIMED_OUT))

    summary = statistics.summary()

    assert (summary["mean"], summary["std"]) == (pytest.approx(0.5), pytest.approx(0.5))  # sqrt((1/4 + 0 + 1/4) / 2)


def test_without_calls_there_are_no_latencies() -> None:
    assert FunctionStatistics().summary()["p50_seconds"] is None


def test_the_last_three_failures_are_kept_with_both_ends_of_a_long_response() -> None:
    statistics = FunctionStatistics()
    for attempt in range(5):
        request = RewardRequest("r", attempt, "math", "", "begin" + "x" * 10_000 + "end", "4")
        statistics.record(request, Score("r", attempt, ScoreStatus.FAILED, error="out of luck"))

    failures = statistics.summary()["last_failures"]

    assert isinstance(failures, list)
    assert [failure["attempt"] for failure in failures] == [2, 3, 4]
    assert len(failures[0]["response"]) < 600
    assert (failures[0]["response"][:5], failures[0]["response"][-3:]) == ("begin", "end")
