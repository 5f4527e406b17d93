"""`metrics.jsonl` as the learner writes it: followed while it grows, and read as the course of a run."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

MetricLine = dict[str, Any]


class MetricsFollower:
    """Reads what was appended since the last time; a line still being written waits until it is whole.

    A learner that resumes cuts the file back to its checkpoint; then everything is read anew.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._position_bytes = 0
        self._last_line = b""

    def read_new(self) -> list[MetricLine]:
        """The lines since the last call; none while the file is missing."""
        try:
            with self._path.open("rb") as file:
                lines = self._whole_lines(file)
        except FileNotFoundError:
            return []
        return [json.loads(line) for line in lines]

    def _whole_lines(self, file: BinaryIO) -> list[bytes]:
        file.seek(self._position_bytes - len(self._last_line))
        if file.read(len(self._last_line)) != self._last_line:
            self._position_bytes, self._last_line = 0, b""
            file.seek(0)
        lines = [line for line in file.read().splitlines(keepends=True) if line.endswith(b"\n")]
        self._position_bytes += sum(map(len, lines))
        self._last_line = lines[-1] if lines else self._last_line
        return lines


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

    def seconds_at(self, step: int) -> float | None:
        """When the weights of that step were ready, in seconds since the start; 0 for those before the first step."""
        if step == 0:
            return 0.0
        matching = (line["seconds_since_start"] for line in self.steps if line["step"] == step)
        return next(matching, None)

    def _rewind_to(self, step: int) -> None:
        if self.steps and self.steps[-1]["step"] > step:
            self.steps = [line for line in self.steps if line["step"] <= step]
            self.evaluations = [line for line in self.evaluations if line["eval/step"] <= step]


def read_metrics(path: Path) -> RunMetrics:
    """The whole file."""
    return RunMetrics(MetricsFollower(path).read_new())
