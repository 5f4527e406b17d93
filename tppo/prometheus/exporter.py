"""A process' metrics at one moment. They come with its heartbeat; threads that answer scrapes read them."""

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from prometheus_client import ProcessCollector
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from tppo.prometheus.exposed import OWN_LABELS, Exposed, families

ADDRESS_KEY = "metrics_address"
"""Of the status: where the process answers scrapes, as host:port."""
STATUS_AGE = ("tppo_status_age_seconds", "Time since the process last looked at itself; large: its loop stands still.")
HEARTBEAT_AGE = ("tppo_heartbeat_age_seconds", "Time since Redis last took a heartbeat of the process.")


class Exporter(Collector):
    """The newest status, as metrics. It takes no lock and waits for nobody, so a scrape is answered whatever fails."""

    def __init__(self, metrics: Sequence[Exposed], *, run: str, service: str) -> None:
        self.address = ""
        self._metrics = metrics
        self.own_labels = (run, service)
        self._process = ProcessCollector(registry=None)
        self._status: Mapping[str, Any] = {}
        self._taken_at: float | None = None
        self._announced_at: float | None = None

    def take(self, status: Mapping[str, Any]) -> dict[str, Any]:
        """Remember the status; gives it with the address of this process' metrics, for the heartbeat."""
        self._status, self._taken_at = status, time.monotonic()
        return {**status, ADDRESS_KEY: self.address}

    def note_heartbeat(self) -> None:
        """Redis has taken it."""
        self._announced_at = time.monotonic()

    def collect(self) -> Iterator[Metric]:
        """All that is known now; nothing of the status before the first one."""
        yield from self._process.collect()
        for (name, meaning), moment in ((STATUS_AGE, self._taken_at), (HEARTBEAT_AGE, self._announced_at)):
            if moment is not None:
                family = GaugeMetricFamily(name, meaning, labels=OWN_LABELS)
                family.add_metric(self.own_labels, time.monotonic() - moment)
                yield family
        yield from families(self._metrics, self._status, *self.own_labels)
