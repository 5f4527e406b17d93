"""What a tracker's process gets first, what it writes, and what it remembers over all restarts of the learner."""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from tppo.run_folder.json_files import DamagedFileError, is_of, read_object, write_object
from tppo.run_folder.metric_lines import EVALUATION, STEP

logger = logging.getLogger(__name__)

MAX_SINGLE = 1000
"""Steps that are remembered one by one: many more than evaluations are ever under way."""
NO_POINTS = ("kind", "step", "time")
OF_AN_EVALUATION = ("eval/", "val-core/", "val-aux/")


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


@dataclass(slots=True)
class Steps:
    """A set of steps, of which those far behind the newest are in it for certain."""

    through: int = -1
    """All steps up to this one."""
    single: set[int] = field(default_factory=set)

    def __contains__(self, step: int) -> bool:
        return step <= self.through or step in self.single

    def add(self, step: int) -> None:
        """It is in the set."""
        self.single.add(step)
        if len(self.single) > MAX_SINGLE:
            self.through = min(self.single)
            self.single.remove(self.through)

    def forget_after(self, step: int) -> None:
        """Later ones are no longer in the set."""
        self.through = min(self.through, step)
        self.single = {one for one in self.single if one <= step}


class ReportedSteps:
    """The steps reported of each kind of line, in a file: a repeated step leaves no duplicate point.

    An evaluation may end after a later one, so the newest step does not say which were reported. `branch` names what
    the points belong to.
    """

    def __init__(self, path: Path, *, first_branch: str, through_step: int = -1) -> None:
        """`through_step`: where the file is damaged, steps up to this one count as reported."""
        self._path = path
        self.branch = first_branch
        self._steps = {kind: Steps() for kind in (STEP, EVALUATION)}
        try:
            self._read()
        except DamagedFileError as error:
            logger.warning("%s; steps up to %d count as reported", error, through_step)
            self._steps = {kind: Steps(through_step) for kind in self._steps}

    def forget_after(self, step: int) -> None:
        """Later steps no longer count as reported."""
        for steps in self._steps.values():
            steps.forget_after(step)

    def includes(self, line: Mapping[str, Any]) -> bool:
        """Whether this line was reported."""
        return line["step"] in self._steps[line["kind"]]

    def add(self, line: Mapping[str, Any]) -> None:
        """It was reported."""
        self._steps[line["kind"]].add(line["step"])
        self._path.parent.mkdir(exist_ok=True)
        reported = {kind: {"through": one.through, "single": sorted(one.single)} for kind, one in self._steps.items()}
        write_object(self._path, {"branch": self.branch, **reported})

    def _read(self) -> None:
        fields = read_object(self._path, {"branch": str, **dict.fromkeys(self._steps, dict)})
        if fields is None:
            return
        self.branch = fields["branch"]
        for kind in self._steps:
            match fields[kind]:
                case {"through": int(through), "single": [*single]} if all(is_of(step, int) for step in single):
                    self._steps[kind] = Steps(through, set(single))
                case other:
                    raise DamagedFileError(f"{self._path}: {kind} is {other!r}; expected 'through' and 'single' steps")


def points_of(line: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a step's line, or of an evaluation's own; none of the end, whose step has its numbers already."""
    if line["kind"] not in (STEP, EVALUATION):
        return {}
    prefix: str | tuple[str, ...] = OF_AN_EVALUATION if line["kind"] == EVALUATION else ""
    numbers = {name: value for name, value in line.items() if name.startswith(prefix) and name not in NO_POINTS}
    return {name: float(value) for name, value in numbers.items() if _is_finite(value)}


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
