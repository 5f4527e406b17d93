"""What a checkpoint consists of: the size and digest of each file, to distinguish a complete one from a damaged one.

`manifest.json` is written last; a checkpoint without it was never finished.
"""

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tppo.digests import UnknownAlgorithmError, UnreadableHereError, algorithm_of, file_digest
from tppo.run_folder.checkpoints import MANIFEST
from tppo.run_folder.json_files import DamagedFileError, read_object, write_object

if TYPE_CHECKING:  # the audit does not wait for torch
    from learner.parallel.tensor_file import WrittenFile

PICKLED = (".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth")


FORMAT = 1
"""Of the checkpoints that are written. Those before it have none in their manifest; all up to it are read."""


class DamagedError(ValueError):
    """A checkpoint that is not what was written."""


class NewerFormatError(UnreadableHereError):
    """A checkpoint of a later release, which may mean more than this one knows."""


def write_manifest(folder: Path, written: Mapping[str, "WrittenFile"] | None = None) -> None:
    """Describe every file that is in the folder now; those that were hashed when they were `written` are not read."""
    known = written or {}
    files = {
        name: [known[name].num_bytes, known[name].digest] if name in known else [path.stat().st_size, file_digest(path)]
        for name, path in _files(folder)
    }
    write_object(folder / MANIFEST, {"format": FORMAT, "files": files})


def verify(folder: Path, *, only: Collection[str] = ()) -> None:
    """Raise `DamagedError`, with what is wrong, unless each file is as it was written. Reads all, or `only` these.

    Raises `UnreadableHereError` where that cannot be found out.
    """
    files = described(folder)
    for name in only or files:
        path = folder / name
        if not path.is_file():
            raise DamagedError(f"{path} is missing")
        if name not in files:
            raise DamagedError(f"{path} is not in {MANIFEST}")
        size, digest = files[name]
        if path.stat().st_size != size:
            raise DamagedError(f"{path} has {path.stat().st_size} bytes; expected {size}")
        require_digest(path, digest)


def refuse_pickles(folder: Path) -> None:
    """Raise `DamagedError` for a file that a library may unpickle: who puts it there could run code by it."""
    for _, path in _files(folder):
        if path.suffix in PICKLED:
            raise DamagedError(f"{path} is none of a checkpoint's files: it may be a pickle, which could run code")


def require_digest(path: Path, digest: str) -> None:
    """Raise `DamagedError` unless the file has this digest, computed by the algorithm that it names.

    Raises `UnknownAlgorithmError` where that cannot be found out here: the file may be whole.
    """
    try:
        found = file_digest(path, algorithm_of(digest))
    except UnknownAlgorithmError as error:
        raise UnknownAlgorithmError(f"{path} cannot be verified: {error}") from None
    if found != digest:
        raise DamagedError(f"{path} has other bytes than were written")


def described(folder: Path) -> dict[str, tuple[int, str]]:
    """Size and digest of each file, by the manifest. Raises `DamagedError` where it has none that can be read.

    Raises `NewerFormatError`.
    """
    try:
        fields = read_object(folder / MANIFEST, {"files": dict})
    except DamagedFileError as error:
        raise DamagedError(f"{folder} has no readable {MANIFEST} ({error})") from None
    if fields is None:
        raise DamagedError(f"{folder} has no readable {MANIFEST} (it is missing)")
    _require_known_format(folder, fields.get("format", 0))
    files: dict[str, tuple[int, str]] = {}
    for name, facts in fields["files"].items():
        match facts:
            case [int(size), str(digest)]:
                files[name] = size, digest
            case _:
                raise DamagedError(
                    f"{folder} has no readable {MANIFEST} ({name}: {facts!r}; expected its size and its digest)"
                )
    return files


def _require_known_format(folder: Path, found: object) -> None:
    if not isinstance(found, int):
        raise DamagedError(f"{folder} has no readable {MANIFEST} (format: {found!r}; expected a whole number)")
    if found > FORMAT:
        raise NewerFormatError(
            f"{folder} is a checkpoint of format {found}, of a later release; "
            f"expected format {FORMAT} or an earlier one: upgrade T-PPO here"
        )


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != MANIFEST:
            yield path.relative_to(folder).as_posix(), path
