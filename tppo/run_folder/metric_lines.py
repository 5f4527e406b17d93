"""The lines of `metrics.jsonl` (docs/metrics.md): of a training step, of an evaluation, and of the end of training.

A line is whole, or it is left out: one that lacks its step, or has something else than a number in a place, was written
by nobody of ours, or damaged since.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tppo.run_folder.json_files import is_of
from tppo.run_folder.json_lines import Fields, read_objects

STEP, EVALUATION, END = "step", "evaluation", "end"
ACCURACY, EXACT_ACCURACY = "eval/accuracy", "eval/accuracy_exact"


def is_metric_line(line: Mapping[str, Any]) -> bool:
    """Whether the object can be one of ours."""
    step = line.get("step")
    if line.get("kind") not in (STEP, EVALUATION, END) or not is_of(step, int) or step is None or step < 0:
        return False
    return all(is_of(value, float | None) for name, value in line.items() if name != "kind")


def read_metric_lines(path: Path) -> list[Fields]:
    """All of the file, in its order; none where it is missing."""
    return [line for line in read_objects(path) if is_metric_line(line)]


@dataclass(frozen=True, slots=True)
class MeasuredAccuracy:
    """Of an evaluation, by which it is compared with others."""

    measure: str
    """Its name in metrics.jsonl."""
    value: float


def deciding_accuracy(line: Mapping[str, Any]) -> MeasuredAccuracy | None:
    """The exact one, which has no sampling noise, where there is one; None where nothing was measured."""
    for name in (EXACT_ACCURACY, ACCURACY):
        value = line.get(name)
        if value is not None and is_of(value, float):
            return MeasuredAccuracy(name, float(value))
    return None
