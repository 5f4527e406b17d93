"""What a tracker has been told, over all lives of the learner: a step that is taken again leaves no second point."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tppo.run_folder.durable import write_atomically

NO_POINTS = ("kind", "step", "time")
OF_AN_EVALUATION = "eval/"


def points_of(line: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a step's line, or of an evaluation's own; none of the end, whose step has its numbers already."""
    if line["kind"] not in ("step", "evaluation"):
        return {}
    prefix = OF_AN_EVALUATION if line["kind"] == "evaluation" else ""
    numbers = {name: value for name, value in line.items() if name.startswith(prefix) and name not in NO_POINTS}
    return {name: float(value) for name, value in numbers.items() if _is_finite(value)}


class Told:
    """The newest step of each kind of line, in a file; `branch` names what the points belong to."""

    def __init__(self, path: Path, *, first_branch: str) -> None:
        self._path = path
        content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        self.branch: str = content.get("branch", first_branch)
        self._newest: dict[str, int] = content.get("newest", {})

    def forget_after(self, step: int) -> None:
        """What was told of later steps is gone from where it was told."""
        self._newest = {kind: min(newest, step) for kind, newest in self._newest.items()}

    def has(self, line: Mapping[str, Any]) -> bool:
        """Whether it was told, this one or one of a later step."""
        return int(line["step"]) <= self._newest.get(line["kind"], -1)

    def note(self, line: Mapping[str, Any]) -> None:
        """It was told."""
        self._newest[line["kind"]] = int(line["step"])
        self._path.parent.mkdir(exist_ok=True)
        write_atomically(self._path, json.dumps({"branch": self.branch, "newest": self._newest}).encode())


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
