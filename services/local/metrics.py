"""`metrics.jsonl` as the course of a run."""

import math
import statistics
from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, overload

from tppo.run_folder.metric_lines import ACCURACY, EVALUATION, STEP, is_metric_line, read_metric_lines

MetricLine = dict[str, Any]

WHOLE_NUMBERS = ("step", "tokens/trained", "windows/in_flight", "data/skipped_prompts")
REAL_NUMBERS = ("seconds_since_start", "reward/mean", "response_length/mean", "policy_lag/mean", "timing_s/train")


class ShownSteps(Sequence[MetricLine]):
    """What display, summary and curve need of each step, in 72 bytes: a run may have a million of them."""

    def __init__(self) -> None:
        self._columns: dict[str, array[float]] = {name: array("d") for name in (*WHOLE_NUMBERS, *REAL_NUMBERS)}

    def __len__(self) -> int:
        return len(self._columns["step"])

    @overload
    def __getitem__(self, index: int) -> MetricLine: ...
    @overload
    def __getitem__(self, index: slice) -> list[MetricLine]: ...
    def __getitem__(self, index: int | slice) -> MetricLine | list[MetricLine]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        known = {name: column[index] for name, column in self._columns.items() if not math.isnan(column[index])}
        return {name: int(value) if name in WHOLE_NUMBERS else value for name, value in known.items()}

    def append(self, line: MetricLine) -> None:
        """Take the numbers of one line; one that it lacks is NaN."""
        for name, column in self._columns.items():
            value = line.get(name)
            column.append(math.nan if value is None else value)

    def pop(self) -> None:
        """Drop the newest."""
        for column in self._columns.values():
            column.pop()


class RunMetrics:
    """The steps and evaluations of a run; a step that comes again, after a resume, replaces what followed it."""

    def __init__(self, lines: Iterable[MetricLine] = (), *, is_shown_only: bool = False) -> None:
        """`is_shown_only`: keep of each step no more than what `tppo run` shows."""
        self.steps: ShownSteps | list[MetricLine] = ShownSteps() if is_shown_only else []
        self.evaluations: list[MetricLine] = []
        for line in lines:
            self.add(line)

    def add(self, line: MetricLine) -> None:
        """Take one line of the file; one that is none of ours is left out."""
        if not is_metric_line(line):
            return
        if line["kind"] == EVALUATION:
            if line.get(ACCURACY) is None:  # nothing of the round could be scored: there is nothing to show
                return
            kept = [other for other in self.evaluations if other["step"] != line["step"]]
            self.evaluations = sorted([*kept, line], key=lambda other: int(other["step"]))
        elif line["kind"] == STEP:
            self._rewind_to(line["step"] - 1)
            self.steps.append(line)

    def mean(self, name: str) -> float | None:
        """Over the steps that have this number; None where none has."""
        known = [line[name] for line in self.steps if line.get(name) is not None]
        return statistics.mean(known) if known else None

    def _rewind_to(self, step: int) -> None:
        if self.steps and self.steps[-1]["step"] > step:
            while self.steps and self.steps[-1]["step"] > step:
                self.steps.pop()
            self.evaluations = [line for line in self.evaluations if line["step"] <= step]


def read_metrics(path: Path) -> RunMetrics:
    """The whole file."""
    return RunMetrics(read_metric_lines(path))
