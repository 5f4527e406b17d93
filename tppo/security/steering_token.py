"""The bearer token that steers a run where TPPO_TOKEN is not set: in the run's folder, readable by its owner only."""

import os
import secrets
from pathlib import Path

from tppo.run_folder.paths import RunPaths

OTHERS = 0o077
SHORTEST = 20


def steering_token(folder: Path) -> str:
    """The one that is there, else a new one, which is kept. Raises OSError where the folder cannot be written to."""
    return _kept(RunPaths(folder).dashboard_token) or _keep(folder, secrets.token_urlsafe(24))


def _kept(path: Path) -> str:
    """Empty unless the file is this user's and was never readable by others."""
    try:
        state = path.lstat()
        token = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""
    is_private = state.st_uid == os.getuid() and not state.st_mode & OTHERS
    return token if is_private and len(token) >= SHORTEST else ""


def _keep(folder: Path, token: str) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    path = RunPaths(folder).dashboard_token
    path.unlink(missing_ok=True)  # a file that is there keeps its mode
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
        file.write(token + "\n")
    return token
