"""What a checkpoint consists of: the size and digest of each file, to distinguish a complete one from a damaged one.

`manifest.json` is written last; a checkpoint without it was never finished.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from tppo.run_folder.checkpoints import MANIFEST


class DamagedError(ValueError):
    """A checkpoint that is not what was written."""


def write_manifest(folder: Path) -> None:
    """Describe every file that is in the folder now."""
    files = {name: [path.stat().st_size, _digest(path)] for name, path in _files(folder)}
    (folder / MANIFEST).write_text(json.dumps({"files": files}, indent=1), encoding="utf-8")


def verify(folder: Path) -> None:
    """Raise `DamagedError`, with what is wrong, unless each file is as it was written. Reads all of them."""
    try:
        described = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError) as error:
        raise DamagedError(f"{folder} has no readable {MANIFEST} ({error})") from None
    for name, (size, digest) in described.items():
        path = folder / name
        if not path.is_file():
            raise DamagedError(f"{path} is missing")
        if path.stat().st_size != size:
            raise DamagedError(f"{path} has {path.stat().st_size} bytes; expected {size}")
        if _digest(path) != digest:
            raise DamagedError(f"{path} has other bytes than were written")


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != MANIFEST:
            yield path.relative_to(folder).as_posix(), path


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
