"""A run's checkpoints as every process finds them: `checkpoints/global_step_N/`, complete once it has a manifest.

latest            names the newest committed checkpoint; written last
best.json         step and accuracy of the checkpoint that did best in an evaluation, and which accuracy that is
committed.jsonl   a line for every checkpoint ever committed, with the digests of its weights
damaged_*         a checkpoint that was found incomplete or altered
.*                a checkpoint being written or replaced
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tppo.run_folder.json_files import DamagedFileError, fits, read_object
from tppo.run_folder.json_lines import parsed_object, read_objects
from tppo.run_folder.metric_lines import ACCURACY

PREFIX = "global_step_"
NAME = re.compile(rf"{PREFIX}([0-9]{{1,12}})")
LONGEST_NAME = 100
DAMAGED_PREFIX = "damaged_"
MANIFEST = "manifest.json"
COMMITTED = {"step": int, "inbox_position": str, "actor": str, "critic": str}
"""What a line of committed.jsonl has."""


@dataclass(frozen=True, slots=True)
class BestCheckpoint:
    """The checkpoint that did best in an evaluation."""

    step: int
    accuracy: float
    measure: str = ACCURACY
    """Its name in metrics.jsonl."""


@dataclass(frozen=True, slots=True)
class CheckpointFolder:
    """The folder of a run's checkpoints; nothing is found in one that does not exist."""

    path: Path

    @property
    def latest(self) -> Path:
        """The file that names the newest committed checkpoint."""
        return self.path / "latest"

    @property
    def best_record(self) -> Path:
        """The file about the best checkpoint."""
        return self.path / "best.json"

    @property
    def committed_log(self) -> Path:
        """The file with a line per checkpoint ever committed."""
        return self.path / "committed.jsonl"

    def of_step(self, step: int) -> Path:
        """Where the checkpoint of a step is, or would be."""
        return self.path / f"{PREFIX}{step}"

    def newest(self) -> Path | None:
        """The newest committed checkpoint; None when none was ever committed.

        Where `latest` is missing, unreadable, or names none that is there, the newest of those that are complete.
        """
        named = self._named()
        if named is not None and (named.exists() or replaced(named).exists()):
            return named
        complete = self.complete_steps()
        return self.of_step(complete[-1]) if complete else named

    def _named(self) -> Path | None:
        """By `latest`."""
        try:
            name = self.latest.read_bytes()[:LONGEST_NAME].decode("ascii", "replace").strip()
        except OSError:
            return None
        return self.path / name if NAME.fullmatch(name) else None

    def newest_step(self) -> int | None:
        """The step of the newest committed checkpoint."""
        newest = self.newest()
        return None if newest is None else step_of(newest)

    def kept_steps(self) -> list[int]:
        """The steps whose checkpoints exist, complete or not, in order."""
        return sorted(int(match[1]) for path in self.path.glob(f"{PREFIX}*") if (match := NAME.fullmatch(path.name)))

    def complete_steps(self) -> list[int]:
        """The steps whose checkpoints have a manifest, in order."""
        return [step for step in self.kept_steps() if (self.of_step(step) / MANIFEST).is_file()]

    def best(self) -> BestCheckpoint | None:
        """The best checkpoint so far; None before the first evaluation, and where its record or itself is damaged."""
        try:
            fields = read_object(self.best_record, {"step": int, "accuracy": float, "measure": str})
        except DamagedFileError:
            return None
        if fields is None or fields["step"] not in self.complete_steps():
            return None
        return BestCheckpoint(fields["step"], float(fields["accuracy"]), fields["measure"])

    def committed(self) -> list[dict[str, Any]]:
        """What was noted of each checkpoint ever committed, in that order; torn and foreign lines are left out."""
        return [note for note in read_objects(self.committed_log) if fits(note, COMMITTED)]


def replaced(checkpoint: Path) -> Path:
    """Where a checkpoint is while another one of the same step takes its place."""
    return checkpoint.with_name(f".{checkpoint.name}.replaced")


def step_of(checkpoint: Path) -> int:
    """The training step after which a checkpoint was made."""
    match = NAME.fullmatch(checkpoint.name)
    if match is None:
        raise ValueError(f"{checkpoint} is not named as a checkpoint; expected {PREFIX}N")
    return int(match[1])


def manifest_of(checkpoint: Path) -> dict[str, Any]:
    """What the checkpoint consists of; nothing where the manifest is missing or unreadable."""
    try:
        return parsed_object((checkpoint / MANIFEST).read_bytes()) or {}
    except OSError:
        return {}
