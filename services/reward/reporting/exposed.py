"""The metrics of a reward service for Prometheus, read from the status in its heartbeat."""

from collections.abc import Iterator

from tppo.prometheus.exposed import Exposed, Sample, Status, at, of_each, part, table_at, value_at
from tppo.rollout import ScoreStatus

QUANTILES = {"0.5": "p50_seconds", "0.99": "p99_seconds"}


def _scores(status: Status) -> Iterator[Sample]:
    for function, summary in table_at(status, "functions").items():
        for outcome in ScoreStatus:
            word = outcome.name.lower()
            yield (function, word), value_at(summary, f"num_{word}")


def _durations(status: Status) -> Iterator[Sample]:
    for function, summary in table_at(status, "functions").items():
        for quantile, key in QUANTILES.items():
            yield (function, quantile), value_at(summary, key)


def _attached(status: Status) -> Iterator[Sample]:
    processes = value_at(status, "attached", "processes")
    yield (), len(processes) if isinstance(processes, list) else None


REWARD_METRICS = (
    Exposed(
        name="tppo_reward_scores_total",
        unit="scores",
        meaning="Attempts to score a response, by reward function and status.",
        labels=("function", "status"),
        read=_scores,
    ),
    Exposed(
        name="tppo_reward_score_mean",
        unit="score",
        meaning="Mean of all scores of the function.",
        labels=("function",),
        read=of_each("functions", number=part("mean")),
    ),
    Exposed(
        name="tppo_reward_score_std",
        unit="score",
        meaning="Standard deviation of all scores of the function.",
        labels=("function",),
        read=of_each("functions", number=part("std")),
    ),
    Exposed(
        name="tppo_reward_duration_seconds",
        unit="seconds",
        meaning="Time that an attempt took, over the last 1000 of the function; quantile 0.5 or 0.99.",
        labels=("function", "quantile"),
        read=_durations,
    ),
    Exposed(
        name="tppo_reward_held_requests",
        unit="requests",
        meaning="Requests under a lease of the service.",
        read=at("num_held"),
    ),
    Exposed(
        name="tppo_reward_capacity_requests",
        unit="requests",
        meaning="Requests that it holds at most.",
        read=at("capacity"),
    ),
    Exposed(
        name="tppo_reward_busy_seconds_total",
        unit="seconds",
        meaning="Time in which the service held any request.",
        read=at("busy_seconds"),
    ),
    Exposed(
        name="tppo_reward_lost_leases_total",
        unit="leases",
        meaning="Scores that were not delivered because the lease had passed on.",
        read=at("num_leases_lost"),
    ),
    Exposed(
        name="tppo_reward_rejected_requests_total",
        unit="requests",
        meaning="Requests that cannot be served, moved to the dead letters.",
        read=at("num_rejected"),
    ),
    Exposed(
        name="tppo_reward_attached_processes",
        unit="processes",
        meaning="Users' own processes that offer reward functions to the service.",
        read=_attached,
    ),
    Exposed(
        name="tppo_reward_waiting_responses",
        unit="responses",
        meaning="Responses that wait for a user's own process, by the function that they need.",
        labels=("function",),
        read=of_each("attached", "num_waiting"),
    ),
)
