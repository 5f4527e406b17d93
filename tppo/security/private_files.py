"""Secrets in files that their owner alone can read, and folders that nobody else enters."""

import contextlib
import os
import re
import secrets
from pathlib import Path

OTHERS = 0o077
SECRET = re.compile(r"[!-~]{20,512}")
"""Long enough not to be guessed, and as it fits into a header: printable, without spaces."""


def private_folder(path: Path) -> Path:
    """The folder, closed to others when it is made now; one that is there keeps the mode that its owner gave it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir(mode=0o700, exist_ok=True)
    return path


def new_secret() -> str:
    """That nobody guesses."""
    return secrets.token_urlsafe(24)


def kept_secret(path: Path) -> str:
    """The secret in the file, else a new one, which is kept there. Raises OSError where it cannot be written."""
    found = _read(path)
    if found is not None and not SECRET.fullmatch(found):  # others could read it, or it is torn
        path.unlink(missing_ok=True)
        found = None
    if found is None:
        _keep(path, new_secret())
        found = _read(path)  # which another process may have kept first
    return found or ""


def read_secret(path: Path) -> str:
    """Empty unless the file is this user's own, no link, and closed to others."""
    return _read(path) or ""


def _read(path: Path) -> str | None:
    """None: there is no file. Empty: others could read it, or it is no file of this user's."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), encoding="ascii") as file:
            state = os.fstat(file.fileno())
            secret = file.read(4096).removesuffix("\n")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError):
        return ""
    is_private = state.st_uid == os.getuid() and not state.st_mode & OTHERS
    return secret if is_private else ""


def write_secret(path: Path, text: str, *, mode: int = 0o600) -> None:
    """Replace the file by one that its owner alone can read; with another mode whoever enters its folder, too."""
    temporary = _written(path, text)
    try:
        temporary.chmod(mode)
        temporary.replace(path)
    except OSError:
        temporary.unlink()
        raise


def _keep(path: Path, secret: str) -> None:
    """Whole or not at all, and never over what another process has kept meanwhile."""
    temporary = _written(path, secret)
    try:
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)
    finally:
        temporary.unlink()


def _written(path: Path, text: str) -> Path:
    private_folder(path.parent)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())
    return temporary
