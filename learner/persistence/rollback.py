"""An older checkpoint becomes the newest, as the beginning of a new life.

What came after it is moved to `rolled_back/N/`, where N is the new incarnation: checkpoints, and the archived log. The
next learner discards what Redis still holds, because those windows belong to a future that will not be, publishes the
older weights under the new incarnation, which every generator takes, and samples that future anew.
"""

import json
from pathlib import Path

from learner.persistence.archive import InboxArchive
from learner.persistence.manifest import DamagedError, verify
from learner.persistence.run_identity import begin_life, is_alive
from tppo.config import ConfigError
from tppo.run_folder.checkpoints import CheckpointFolder
from tppo.run_folder.durable import write_atomically
from tppo.run_folder.json_lines import json_line
from tppo.run_folder.paths import RunPaths

PENDING = "rollback.json"
WISH = "rollback_wish.json"


def roll_back(folder: Path, version: int) -> None:
    """Raises `ConfigError`. Cut short, it may be repeated."""
    if is_alive(folder):
        raise ConfigError(f"{folder} is being trained; expected a run that was stopped")
    _require_whole(folder, version)
    _carry_out(folder, version, begin_life(folder).incarnation)


def wish(folder: Path, version: int) -> None:
    """For the next life of the learner."""
    write_atomically(folder / WISH, json.dumps({"version": version}).encode())


def fulfil_wish(folder: Path, incarnation: int) -> None:
    """What the life before wished for, in this one. Raises `ConfigError` once; then the wish is forgotten."""
    path = folder / WISH
    if not path.exists():
        return
    version = json.loads(path.read_text(encoding="utf-8"))["version"]
    try:
        _require_whole(folder, version)
        _carry_out(folder, version, incarnation)
    finally:
        path.unlink()


def _carry_out(folder: Path, version: int, incarnation: int) -> None:
    paths = RunPaths(folder)
    checkpoints = CheckpointFolder(paths.checkpoints)
    target = checkpoints.of_step(version)
    position = json.loads((target / "progress.json").read_text(encoding="utf-8"))["inbox_position"]
    write_atomically(folder / PENDING, json.dumps({"version": version, "incarnation": incarnation}).encode())
    write_atomically(checkpoints.latest, target.name.encode())
    aside = paths.rolled_back / str(incarnation)
    aside.mkdir(parents=True, exist_ok=True)
    for step in checkpoints.kept_steps():
        if step > version:
            later = checkpoints.of_step(step)
            later.rename(aside / later.name)
    _forget_later_notes(checkpoints, version)
    InboxArchive(paths.inbox).cut(position, aside / "inbox")


def is_pending(folder: Path) -> bool:
    """Whether a rollback waits for its first learner."""
    return (folder / PENDING).exists()


def settle(folder: Path) -> None:
    """The learner has discarded what was rolled back."""
    (folder / PENDING).unlink()


def _require_whole(folder: Path, version: int) -> None:
    checkpoints = CheckpointFolder(RunPaths(folder).checkpoints)
    target = checkpoints.of_step(version)
    if not target.is_dir():
        kept = checkpoints.kept_steps()
        raise ConfigError(f"--to {version}: no such checkpoint in {folder}; expected one of {kept}")
    try:
        verify(target)
    except DamagedError as error:
        raise ConfigError(f"{error}; expected a whole checkpoint") from None


def _forget_later_notes(checkpoints: CheckpointFolder, version: int) -> None:
    notes = [json_line(note) for note in checkpoints.committed() if note["step"] <= version]
    write_atomically(checkpoints.committed_log, b"".join(notes))
    best = checkpoints.best()
    if best is not None and best.step > version:
        checkpoints.best_record.unlink()
