"""What a tracker's process gets first, what it writes, and what it remembers over all restarts of the learner."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tppo.run_folder.durable import write_atomically

NO_POINTS = ("kind", "step", "time")
OF_AN_EVALUATION = "eval/"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackerStart:
    """One incarnation of the learner, as a tracker knows it; of JSON values."""

    folder: str
    """Of the run."""
    run: str
    run_id: str
    """Unique in the world, unlike the run's name."""
    incarnation: int
    through_step: int
    """Steps after this one are taken by this incarnation, some of them again."""
    is_rolled_back: bool = False
    """An operator has rolled the run back: other steps will follow than those that were reported."""
    project: str = ""
    mode: str = ""
    """Of W&B: offline or online."""
    settings: Mapping[str, Any]
    """The run's configuration, without addresses."""

    def file(self, name: str) -> Path:
        """Where a tracker keeps what it remembers from one incarnation to the next."""
        return Path(self.folder) / "trackers" / name


class TrackerWriter(Protocol):
    """Writes numbers to a tracker."""

    def write(self, step: int, seconds: float, points: Mapping[str, float]) -> None:
        """Numbers of a step, or of its evaluation, at a time since the epoch."""

    def close(self) -> None:
        """Nothing more comes."""


class ReportedSteps:
    """The newest step reported of each kind of line, in a file: a repeated step leaves no duplicate point.

    `branch` names what the points belong to.
    """

    def __init__(self, path: Path, *, first_branch: str) -> None:
        self._path = path
        content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        self.branch: str = content.get("branch", first_branch)
        self._newest: dict[str, int] = content.get("newest", {})

    def forget_after(self, step: int) -> None:
        """Later steps no longer count as reported."""
        self._newest = {kind: min(newest, step) for kind, newest in self._newest.items()}

    def includes(self, line: Mapping[str, Any]) -> bool:
        """Whether this line, or one of a later step, was reported."""
        return int(line["step"]) <= self._newest.get(line["kind"], -1)

    def add(self, line: Mapping[str, Any]) -> None:
        """It was reported."""
        self._newest[line["kind"]] = int(line["step"])
        self._path.parent.mkdir(exist_ok=True)
        write_atomically(self._path, json.dumps({"branch": self.branch, "newest": self._newest}).encode())


def points_of(line: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a step's line, or of an evaluation's own; none of the end, whose step has its numbers already."""
    if line["kind"] not in ("step", "evaluation"):
        return {}
    prefix = OF_AN_EVALUATION if line["kind"] == "evaluation" else ""
    numbers = {name: value for name, value in line.items() if name.startswith(prefix) and name not in NO_POINTS}
    return {name: float(value) for name, value in numbers.items() if _is_finite(value)}


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
