"""What docs/prometheus.md and docs/metrics.md say that the services export."""

import re
from pathlib import Path
from typing import NamedTuple

from learner.reporting.prometheus import BY_OTHERS_NAMES, metric_name
from tppo.prometheus.exposed import OWN_LABELS

DOCS = Path(__file__).parents[2] / "docs"
COMMON = "Every process"
SERVICES = ("Learner", "Generation", "Reward", "Dashboard")


class Row(NamedTuple):
    """One line of a table, as it stands there."""

    name: str
    type: str
    unit: str
    labels: tuple[str, ...]
    meaning: str


def documented(section: str) -> list[Row]:
    """The table below a heading of docs/prometheus.md."""
    text = (DOCS / "prometheus.md").read_text(encoding="utf-8")
    body = text.split(f"\n## {section}\n")[1].split("\n## ")[0]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in body.splitlines() if "| `" in line[:3]]
    return [Row(name.strip("`"), kind, unit, _names(labels), meaning) for name, kind, unit, labels, meaning in cells]


def names_of_lines() -> set[str]:
    """The names that docs/metrics.md lists, as Prometheus knows them; those that end in others' names are left out."""
    rows = [line for line in (DOCS / "metrics.md").read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    names = {name for row in rows for name in _names(row.split("|")[1])}
    return {metric_name(name) for name in names if not name.startswith(BY_OTHERS_NAMES)}


def known_labels() -> dict[str, set[str]]:
    """Every metric that any process exports, with its labels."""
    rows = [row for section in (COMMON, *SERVICES) for row in documented(section)]
    labels = {row.name: {*OWN_LABELS, *row.labels} for row in rows}
    return {name: set(OWN_LABELS) for name in names_of_lines()} | labels


def _names(cell: str) -> tuple[str, ...]:
    return tuple(re.findall(r"`([^`]+)`", cell))
