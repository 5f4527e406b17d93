"""Which incarnation of which run's learner this process is: a small file in the run's folder, written before anything
is sent.

Each restart of the learner has a higher incarnation, so that weights of a later one always replace those of an earlier
one, even when it resumed at an earlier step. An incarnation holds a lock of its own in the folder; the operating system
releases it when the process ends, however it does, and so shows others on this machine that it has ended. What is
locked holds the same as the small file, which is read from there when it is missing or damaged.
"""

import fcntl
import json
import logging
import os
import uuid
from dataclasses import dataclass
from pathlib import Path

from tppo.run_folder.json_files import DamagedFileError, read_object, write_object
from tppo.run_folder.paths import RunPaths
from tppo.security.private_files import private_folder
from tppo.streams.fence import FencedError

logger = logging.getLogger(__name__)

LOCK_PREFIX = ".learner-"
NEEDED = {"run_id": str, "incarnation": int}


@dataclass(frozen=True, slots=True)
class RunIdentity:
    """This process as one incarnation of the learner of the run in a folder."""

    folder: Path
    run_id: str  # unique in the world, unlike the run's name
    incarnation: int  # 1 for the first
    lock: int  # descriptor of a file that is locked until the process ends

    def require_current(self) -> None:
        """Raise `FencedError` when a later incarnation has begun: the folder's files are no longer this one's."""
        newest = _recorded(self.folder)
        if (newest.run_id, newest.incarnation) != (self.run_id, self.incarnation):
            raise FencedError(
                f"another learner, incarnation {newest.incarnation}, has taken this run over; this one ends"
            )


@dataclass(frozen=True, slots=True)
class Recorded:
    """What the newest incarnation has written; of none before the first."""

    run_id: str = ""
    incarnation: int = 0


def next_incarnation(run_folder: Path) -> int:
    """The incarnation that would begin now."""
    return _recorded(run_folder).incarnation + 1


def begin_incarnation(run_folder: Path, *, at_least: int = 1) -> RunIdentity:
    """The next incarnation of the run in the folder, with that number or a higher one."""
    private_folder(run_folder)
    last = _recorded(run_folder)
    run_id, incarnation = last.run_id or uuid.uuid4().hex, max(last.incarnation + 1, at_least)
    for path in run_folder.glob(f"{LOCK_PREFIX}*.lock"):
        path.unlink()  # its holder keeps the lock; only the newest is looked up by number
    lock = os.open(_lock_path(run_folder, incarnation), os.O_CREAT | os.O_WRONLY, 0o666)
    fcntl.flock(lock, fcntl.LOCK_EX)
    identity = {"run_id": run_id, "incarnation": incarnation}
    os.write(lock, json.dumps(identity).encode())
    write_object(RunPaths(run_folder).identity, identity)
    return RunIdentity(run_folder, run_id, incarnation, lock)


def is_running(run_folder: Path) -> bool:
    """Whether the newest incarnation of the run in the folder is known to be running on this machine."""
    incarnation = next_incarnation(run_folder) - 1
    return _lock_path(run_folder, incarnation).exists() and not has_ended(run_folder, incarnation)


def has_ended(run_folder: Path, incarnation: int) -> bool:
    """Whether that incarnation, on this machine and in this folder, has ended for certain."""
    try:
        with _lock_path(run_folder, incarnation).open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except (FileNotFoundError, BlockingIOError):
        return False
    return True


def _lock_path(run_folder: Path, incarnation: int) -> Path:
    return run_folder / f"{LOCK_PREFIX}{incarnation}.lock"


def _recorded(run_folder: Path) -> Recorded:
    try:
        fields = read_object(RunPaths(run_folder).identity, NEEDED)
    except DamagedFileError as error:
        logger.warning("%s; taken from what the newest learner has locked", error)
        fields = None
    return _locked(run_folder) if fields is None else Recorded(fields["run_id"], fields["incarnation"])


def _locked(run_folder: Path) -> Recorded:
    """By the file that the newest incarnation has locked, whose name alone says which one it is."""
    names = (path.stem.removeprefix(LOCK_PREFIX) for path in run_folder.glob(f"{LOCK_PREFIX}*.lock"))
    incarnation = max((int(name) for name in names if name.isdecimal()), default=0)
    try:
        fields = read_object(_lock_path(run_folder, incarnation), NEEDED) or {}
    except DamagedFileError:
        fields = {}
    return Recorded(fields.get("run_id", ""), incarnation)
