"""Metrics as rows of a table: name, type, unit, meaning, and where in a process' status their numbers stand."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

MAX_SERIES = 256
"""Of one metric; what a status lists beyond it is left out."""
OWN_LABELS = ("run", "service")

Status = Mapping[str, Any]
Sample = tuple[tuple[str, ...], Any]
"""Label values, and something that may be a number."""
Read = Callable[[Status], Iterable[Sample]]


@dataclass(frozen=True, kw_only=True)
class Exposed:
    """One metric; its samples bear the labels `run` and `service` besides its own."""

    name: str
    """As Prometheus knows it: that of a counter ends in _total."""
    unit: str
    meaning: str
    read: Read
    labels: tuple[str, ...] = ()

    @property
    def type(self) -> Literal["counter", "gauge"]:
        """A counter begins at 0 with the process; what a resumed run takes up again is a gauge."""
        return "counter" if self.name.endswith("_total") else "gauge"

    def family(self, status: Status, *own: str) -> Metric:
        """The samples in a status; `own` are the values of `run` and `service`."""
        make = CounterMetricFamily if self.type == "counter" else GaugeMetricFamily
        family = make(self.name, self.meaning, labels=(*OWN_LABELS, *self.labels))
        for labels, value in islice(self.read(status), MAX_SERIES):
            if (number := number_of(value)) is not None:
                family.add_metric([_whole(label) for label in (*own, *labels)], number)
        return family


def families(metrics: Iterable[Exposed], status: Status, *own: str) -> Iterator[Metric]:
    """Those that the status has a number for."""
    return (family for metric in metrics if (family := metric.family(status, *own)).samples)


def at(*keys: str) -> Read:
    """The number behind the keys."""

    def read(status: Status) -> Iterator[Sample]:
        yield (), value_at(status, *keys)

    return read


def of_each(*keys: str, number: Callable[[Any], Any] = lambda value: value) -> Read:
    """One number for each entry of the table behind the keys, whose own key is the label."""

    def read(status: Status) -> Iterator[Sample]:
        for key, value in table_at(status, *keys).items():
            yield (str(key),), number(value)

    return read


def part(name: str) -> Callable[[Any], Any]:
    """For `of_each`: what stands in an entry under that name."""
    return lambda entry: value_at(entry, name)


def value_at(status: Any, *keys: str) -> Any:
    """What stands behind the keys; None where a process of another version reports something else."""
    for key in keys:
        status = status.get(key) if isinstance(status, Mapping) else None
    return status


def table_at(status: Any, *keys: str) -> Mapping[str, Any]:
    """The table behind the keys, or an empty one."""
    value = value_at(status, *keys)
    return value if isinstance(value, Mapping) else {}


def number_of(value: Any) -> float | None:
    """A finite number; true counts as 1."""
    is_number = isinstance(value, int | float) and math.isfinite(value)
    return float(value) if is_number else None


def _whole(label: str) -> str:
    """Without half surrogate pairs, which no encoding takes."""
    return label.encode("utf-8", "replace").decode("utf-8")
