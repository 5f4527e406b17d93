"""The dashboard's Prometheus metrics: a run's status, as `/api/v1/status` has it."""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import get_args

from prometheus_client import ProcessCollector
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from services.dashboard.live.situation import Severity
from services.dashboard.live.status import RunState, ServiceStatus, status_of
from services.dashboard.live.view import View
from tppo.prometheus.exposed import Exposed, Sample, Status, at, families
from tppo.prometheus.run_metrics import RUN_METRICS

REMEMBERED_SECONDS = 24 * 3600.0
"""A process whose last heartbeat is older is left out."""


def _states(status: Status) -> Iterator[Sample]:
    for state in get_args(RunState):
        yield (state,), state == status["state"]


def _alerts(status: Status) -> Iterator[Sample]:
    counts = Counter(alert["severity"] for alert in status["alerts"])
    for severity in get_args(Severity):
        yield (severity,), counts[severity]


def _alive(status: Status) -> Iterator[Sample]:
    for one in status["services"]:
        yield (one["name"], one["kind"]), one["is_alive"]


def _silent_seconds(status: Status) -> Iterator[Sample]:
    for one in status["services"]:
        yield (one["name"], one["kind"]), one["seconds_since_seen"]


DASHBOARD_METRICS = (
    *RUN_METRICS,
    Exposed(
        name="tppo_run_state",
        unit="0 or 1",
        meaning="Whether its state is this: starting, running, learner_gone, redis_gone, stopped, gave_up or finished.",
        labels=("state",),
        read=_states,
    ),
    Exposed(
        name="tppo_run_alerts",
        unit="alerts",
        meaning="Alerts on the dashboard, by severity.",
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
            self._families += families(DASHBOARD_METRICS, _reported(view), view.history.name, service)

    def collect(self) -> Iterable[Metric]:
        """The families that were made at construction."""
        return self._families


def _of_process() -> Iterable[Metric]:
    return ProcessCollector(registry=None).collect()


def _reported(view: View) -> Status:
    """The status; without Redis' numbers where the run is not the live one."""
    status = status_of(view)
    remembered = [one for one in status.services if one.seconds_since_seen <= REMEMBERED_SECONDS]
    reported = status.model_copy(update={"services": sorted(remembered, key=_newest_first)}).model_dump()
    if not view.is_live:
        return reported | {"queues": {}, "num_inbox_entries": None, "dead_letters": {}}
    return reported | {"redis_up": not view.observation.error}


def _newest_first(one: ServiceStatus) -> float:
    return one.seconds_since_seen
