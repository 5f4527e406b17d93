"""Which incarnation of which run's learner this process is: a small file in the run's folder, written before anything
is sent.

Each restart of the learner has a higher incarnation, so that weights of a later one always replace those of an earlier
one, even when it resumed at an earlier step. An incarnation holds a lock of its own in the folder; the operating system
releases it when the process ends, however it does, and so shows others on this machine that it has ended.
"""

import fcntl
import json
import os
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tppo.run_folder.durable import write_atomically
from tppo.run_folder.paths import RunPaths
from tppo.security.private_files import private_folder
from tppo.streams.fence import FencedError

LOCK_PREFIX = ".learner-"


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
        if newest.get("run_id") != self.run_id or newest["incarnation"] != self.incarnation:
            incarnation = newest.get("incarnation", "of another run")
            raise FencedError(f"another learner, incarnation {incarnation}, has taken this run over; this one ends")


def next_incarnation(run_folder: Path) -> int:
    """The incarnation that would begin now."""
    last: int = _recorded(run_folder).get("incarnation", 0)
    return last + 1


def begin_incarnation(run_folder: Path, *, at_least: int = 1) -> RunIdentity:
    """The next incarnation of the run in the folder, with that number or a higher one."""
    private_folder(run_folder)
    run_id = _recorded(run_folder).get("run_id", uuid.uuid4().hex)
    incarnation = max(next_incarnation(run_folder), at_least)
    for path in run_folder.glob(f"{LOCK_PREFIX}*.lock"):
        path.unlink()  # its holder keeps the lock; only the newest is looked up by number
    lock = os.open(_lock_path(run_folder, incarnation), os.O_CREAT | os.O_WRONLY, 0o666)
    fcntl.flock(lock, fcntl.LOCK_EX)
    content = json.dumps({"run_id": run_id, "incarnation": incarnation})
    write_atomically(RunPaths(run_folder).identity, content.encode())
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


def _recorded(run_folder: Path) -> dict[str, Any]:
    """What the newest incarnation has written; nothing when there was none."""
    path = RunPaths(run_folder).identity
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
