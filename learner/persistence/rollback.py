"""Rollback: an older checkpoint becomes the newest, under a new incarnation of the learner.

    requested (by an operator of a running learner) -> applied -> finished

`tppo rollback` applies one at once to a stopped run. Applied: later checkpoints and the later part of the archived
inbox are in `rolled_back/N/`, where N is the new incarnation. Finished: the next learner has discarded what Redis still
held of the steps that were rolled back. It publishes the older weights under its incarnation, so that every generator
takes them, and samples those steps again.
"""

import json
from collections.abc import Callable
from pathlib import Path

from learner.persistence.archive import InboxArchive, archived_records_reader
from learner.persistence.manifest import DamagedError, verify
from learner.persistence.run_identity import begin_incarnation, is_running
from learner.reconfiguration import change_in
from tppo.config import ConfigError
from tppo.digests import UnreadableHereError
from tppo.run_folder.checkpoints import CheckpointFolder
from tppo.run_folder.durable import write_atomically
from tppo.run_folder.json_files import DamagedFileError, read_object, write_object
from tppo.run_folder.json_lines import json_line
from tppo.run_folder.paths import RunPaths
from tppo.security.envelope import Records
from tppo.streams import InboxEntry

REQUESTED = "rollback_requested.json"
APPLIED = "rollback_applied.json"


def roll_back(folder: Path, version: int) -> None:
    """Apply to a stopped run. Raises `ConfigError`; interrupted, it may be repeated."""
    if is_running(folder):
        raise ConfigError(f"{folder} is being trained; expected a stopped run")
    _require_complete(folder, version)
    _apply(folder, version, begin_incarnation(folder).incarnation)


def request(folder: Path, version: int) -> None:
    """For the next incarnation of the learner to apply."""
    write_object(folder / REQUESTED, {"version": version})


def apply_requested(folder: Path, incarnation: int) -> None:
    """What the previous incarnation was requested. Raises `ConfigError` once; then the request is gone."""
    path = folder / REQUESTED
    try:
        fields = read_object(path, {"version": int})
        if fields is not None:
            _require_complete(folder, fields["version"])
            _apply(folder, fields["version"], incarnation)
    except DamagedFileError as error:
        raise ConfigError(f"{error}; nothing is rolled back: request it again, or continue by --resume") from None
    finally:
        path.unlink(missing_ok=True)


def is_unfinished(folder: Path) -> bool:
    """Whether a rollback was applied, and Redis may still hold what it has rolled back."""
    return (folder / APPLIED).exists()


def finish(folder: Path) -> None:
    """The learner has discarded what was rolled back."""
    (folder / APPLIED).unlink()


def _apply(folder: Path, version: int, incarnation: int) -> None:
    paths = RunPaths(folder)
    checkpoints = CheckpointFolder(paths.checkpoints)
    target = checkpoints.of_step(version)
    keep = _changes_applied_before(target, archived_records_reader(folder))
    progress = read_object(target / "progress.json", {"inbox_position": str})
    assert progress is not None, "a complete checkpoint has it"
    position = progress["inbox_position"]
    write_object(folder / APPLIED, {"version": version, "incarnation": incarnation})
    write_atomically(checkpoints.latest, target.name.encode())
    removed = paths.rolled_back / str(incarnation)
    removed.mkdir(parents=True, exist_ok=True)
    for step in checkpoints.kept_steps():
        if step > version:
            later = checkpoints.of_step(step)
            later.rename(removed / later.name)
    delete_later_notes(checkpoints, version)
    InboxArchive(paths.inbox).cut(position, removed / "inbox", keep=keep)


def _changes_applied_before(checkpoint: Path, records: Records) -> Callable[[InboxEntry], bool]:
    """Whether a record is a change of the settings that the checkpoint has applied: it may lie behind its position."""
    commands = json.loads((checkpoint / "ledger.json").read_text(encoding="utf-8"))["commands"]
    applied = {command["command_id"] for command in commands["results"]}

    def is_applied(entry: InboxEntry) -> bool:
        change = change_in(entry.payload, records)
        return change is not None and change.command.command_id in applied

    return is_applied


def _require_complete(folder: Path, version: int) -> None:
    checkpoints = CheckpointFolder(RunPaths(folder).checkpoints)
    target = checkpoints.of_step(version)
    if not target.is_dir():
        kept = checkpoints.kept_steps()
        raise ConfigError(f"--to {version}: no such checkpoint in {folder}; expected one of {kept}")
    try:
        verify(target)
    except (DamagedError, UnreadableHereError) as error:
        raise ConfigError(f"{error}; expected a complete checkpoint") from None


def delete_later_notes(checkpoints: CheckpointFolder, version: int) -> None:
    """What was noted of checkpoints of later steps, which the run takes again otherwise."""
    notes = [json_line(note) for note in checkpoints.committed() if note["step"] <= version]
    write_atomically(checkpoints.committed_log, b"".join(notes))
    best = checkpoints.best()
    if best is not None and best.step > version:
        checkpoints.best_record.unlink()
