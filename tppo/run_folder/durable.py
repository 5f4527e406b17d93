"""Writes that a crash or a full disk cannot leave half done."""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


def write_atomically(path: Path, content: bytes) -> None:
    """The file holds either its old content or the new one, whatever happens."""
    with replacement_of(path) as file:
        file.write(content)


@contextmanager
def replacement_of(path: Path, *, before_replacing: Callable[[], None] = lambda: None) -> Iterator[BinaryIO]:
    """A file to write to; it replaces the one at `path` when the block ends without an exception.

    `before_replacing` may raise to leave the old file in place.
    """
    temporary = path.with_name(f".{path.name}.writing")
    with temporary.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    before_replacing()
    temporary.replace(path)
    sync(path.parent)


def put_in_place(temporary: Path, path: Path) -> None:
    """A file that a library has written whole, in the same folder, gets its name once it is on the disk."""
    sync(temporary)
    temporary.replace(path)
    sync(path.parent)


def append_whole(path: Path, content: bytes, *, is_synced: bool = False) -> None:
    """Append all of it, or nothing. Raises OSError when the disk does not take it.

    `is_synced`: force it to the disk, and a new file's name with it, before this returns.
    """
    with path.open("ab", buffering=0) as file:
        size = file.tell()
        try:
            if file.write(content) != len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            if is_synced:
                os.fsync(file.fileno())
        except OSError:
            file.truncate(size)
            raise
    if is_synced and size == 0:
        sync(path.parent)


def sync(path: Path) -> None:
    """Force a file's content, or the list of a folder's names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Force everything below a folder to the disk: contents and names."""
    for path in [*folder.rglob("*"), folder]:
        sync(path)
