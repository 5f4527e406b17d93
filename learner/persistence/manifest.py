"""What a checkpoint consists of: the size and digest of each file, to distinguish a complete one from a damaged one.

`manifest.json` is written last; a checkpoint without it was never finished.
"""

import hashlib
from collections.abc import Collection, Iterator
from pathlib import Path

from tppo.run_folder.checkpoints import MANIFEST
from tppo.run_folder.json_files import DamagedFileError, read_object, write_object


class DamagedError(ValueError):
    """A checkpoint that is not what was written."""


def write_manifest(folder: Path) -> None:
    """Describe every file that is in the folder now."""
    files = {name: [path.stat().st_size, _digest(path)] for name, path in _files(folder)}
    write_object(folder / MANIFEST, {"files": files})


def verify(folder: Path, *, only: Collection[str] = ()) -> None:
    """Raise `DamagedError`, with what is wrong, unless each file is as it was written. Reads all, or `only` these."""
    described = _described(folder)
    for name in only or described:
        size, digest = described.get(name, (0, "none"))
        path = folder / name
        if not path.is_file():
            raise DamagedError(f"{path} is missing")
        if path.stat().st_size != size:
            raise DamagedError(f"{path} has {path.stat().st_size} bytes; expected {size}")
        if _digest(path) != digest:
            raise DamagedError(f"{path} has other bytes than were written")


def _described(folder: Path) -> dict[str, tuple[int, str]]:
    """Size and digest of each file, by the manifest."""
    try:
        fields = read_object(folder / MANIFEST, {"files": dict})
    except DamagedFileError as error:
        raise DamagedError(f"{folder} has no readable {MANIFEST} ({error})") from None
    if fields is None:
        raise DamagedError(f"{folder} has no readable {MANIFEST} (it is missing)")
    described: dict[str, tuple[int, str]] = {}
    for name, facts in fields["files"].items():
        match facts:
            case [int(size), str(digest)]:
                described[name] = size, digest
            case _:
                raise DamagedError(
                    f"{folder} has no readable {MANIFEST} ({name}: {facts!r}; expected its size and its digest)"
                )
    return described


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != MANIFEST:
            yield path.relative_to(folder).as_posix(), path


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
