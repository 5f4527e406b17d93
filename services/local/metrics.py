"""`metrics.jsonl` as the course of a run."""

import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tppo.run_folder.json_lines import read_objects

MetricLine = dict[str, Any]


class RunMetrics:
    """The steps and evaluations of a run; a step that comes again, after a resume, replaces what followed it."""

    def __init__(self, lines: Iterable[MetricLine] = ()) -> None:
        self.steps: list[MetricLine] = []
        self.evaluations: list[MetricLine] = []
        for line in lines:
            self.add(line)

    def add(self, line: MetricLine) -> None:
        """Take one line of the file."""
        if line.get("kind") == "evaluation":
            if line["eval/accuracy"] is None:  # nothing of the round could be scored: there is nothing to show
                return
            kept = [other for other in self.evaluations if other["eval/step"] != line["eval/step"]]
            self.evaluations = sorted([*kept, line], key=lambda other: int(other["eval/step"]))
        elif line.get("kind") == "step":
            self._rewind_to(int(line["step"]) - 1)
            self.steps.append(line)

    def mean(self, name: str) -> float | None:
        """Over the steps that have this number; None where none has."""
        known = [line[name] for line in self.steps if line.get(name) is not None]
        return statistics.mean(known) if known else None

    def _rewind_to(self, step: int) -> None:
        if self.steps and self.steps[-1]["step"] > step:
            self.steps = [line for line in self.steps if line["step"] <= step]
            self.evaluations = [line for line in self.evaluations if line["eval/step"] <= step]


def read_metrics(path: Path) -> RunMetrics:
    """The whole file."""
    return RunMetrics(read_objects(path))
