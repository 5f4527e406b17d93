"""What the dashboard tells Prometheus: a run's status, as `/api/v1/status` has it, as metrics."""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import get_args

from prometheus_client import ProcessCollector
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from services.dashboard.live.alerts import Severity
from services.dashboard.live.status import RunState, ServiceStatus, status_of
from services.dashboard.live.view import View
from tppo.prometheus.exposed import Exposed, Sample, at, families
from tppo.prometheus.exposed import Status as Told
from tppo.prometheus.run_metrics import RUN_METRICS

REMEMBERED_SECONDS = 24 * 3600.0
"""A process that has been silent for longer is no longer told of."""


def _states(told: Told) -> Iterator[Sample]:
    for state in get_args(RunState):
        yield (state,), state == told["state"]


def _alerts(told: Told) -> Iterator[Sample]:
    counts = Counter(alert["severity"] for alert in told["alerts"])
    for severity in get_args(Severity):
        yield (severity,), counts[severity]


def _alive(told: Told) -> Iterator[Sample]:
    for one in told["services"]:
        yield (one["name"], one["kind"]), one["is_alive"]


def _silent_seconds(told: Told) -> Iterator[Sample]:
    for one in told["services"]:
        yield (one["name"], one["kind"]), one["seconds_since_seen"]


DASHBOARD_METRICS = (
    *RUN_METRICS,
    Exposed(
        name="tppo_run_state",
        unit="0 or 1",
        meaning="Whether the run is in the state: starting, running, learner_gone, redis_gone, stopped or finished.",
        labels=("state",),
        read=_states,
    ),
    Exposed(
        name="tppo_run_alerts",
        unit="alerts",
        meaning="Sentences on the dashboard that ask for attention, by severity.",
        labels=("severity",),
        read=_alerts,
    ),
    Exposed(
        name="tppo_redis_up",
        unit="0 or 1",
        meaning="Whether Redis answers the dashboard.",
        read=at("redis_up"),
    ),
    Exposed(
        name="tppo_process_up",
        unit="0 or 1",
        meaning="Whether the process' last heartbeat is recent.",
        labels=("process", "kind"),
        read=_alive,
    ),
    Exposed(
        name="tppo_process_silent_seconds",
        unit="seconds",
        meaning="Time since the process' last heartbeat.",
        labels=("process", "kind"),
        read=_silent_seconds,
    ),
)


class Scrape(Collector):
    """The metrics of one run at one moment; without a run, those of the process alone."""

    def __init__(self, view: View | None, *, service: str) -> None:
        self._families = list(_of_process())
        if view is not None:
            self._families += families(DASHBOARD_METRICS, _told(view), view.history.name, service)

    def collect(self) -> Iterable[Metric]:
        """Nothing is computed any more."""
        return self._families


def _of_process() -> Iterable[Metric]:
    return ProcessCollector(registry=None).collect()


def _told(view: View) -> Told:
    """The status; nothing is told of Redis where the run is not the live one and nobody asks it."""
    status = status_of(view)
    remembered = [one for one in status.services if one.seconds_since_seen <= REMEMBERED_SECONDS]
    told = status.model_copy(update={"services": sorted(remembered, key=_newest_first)}).model_dump()
    if not view.is_live:
        return told | {"queues": {}, "num_inbox_entries": None}
    return told | {"redis_up": not view.observation.error}


def _newest_first(one: ServiceStatus) -> float:
    return one.seconds_since_seen
