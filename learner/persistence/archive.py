"""The archived inbox: `runs/NAME/inbox/*.log`, one file from checkpoint to checkpoint.

A record is its position (two uint64), the payload's length and CRC-32 (two uint32), all little-endian, and the payload.
What a crash left half written at the end of the last file is cut off: Redis still has it, because the inbox is trimmed
(`ArchivedInbox.trim`, called after each committed checkpoint) only up to what is synced to the disk here. A record
that is archived already, a duplicate read after a restart, is recognised by its position and not written again.
"""

import asyncio
import logging
import os
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from itertools import islice, zip_longest
from pathlib import Path

from tppo.run_folder.durable import append_whole, sync, write_atomically
from tppo.streams import Inbox, InboxEntry
from tppo.streams.contract import BEGINNING, position_of

logger = logging.getLogger(__name__)

HEADER = struct.Struct("<QQII")


class InboxArchive:
    """The files of one run, for one writer."""

    def __init__(self, folder: Path, *, require_right: Callable[[], None] = lambda: None) -> None:
        """`require_right` raises when the files are no longer this process's to write."""
        self._folder = folder
        self._require_right = require_right
        self.last = BEGINNING  # position of the last record
        self._current: Path | None = None  # the file that is written to
        if files := self._files():
            self._cut_torn_end(files[-1])
            for entry in self.entries(BEGINNING):
                self.last = entry.position

    def append(self, entries: Sequence[InboxEntry]) -> None:
        """Write those that are not archived yet, all or none. Raises OSError when the disk is full."""
        new = [entry for entry in entries if position_of(entry.position) > position_of(self.last)]
        if not new:
            return
        self._require_right()
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._current or self._folder / f"{new[0].position}.log"
        append_whole(path, b"".join(map(_record, new)))
        self.last = new[-1].position
        self._current = path

    def close_file(self) -> None:
        """Force what was written to the disk; the next record begins another file."""
        if self._current is not None:
            sync(self._current)
            sync(self._folder)
        self._current = None

    def entries(self, after: str) -> Iterator[InboxEntry]:
        """The records behind a position, in order."""
        files = self._files()
        for path, following in zip_longest(files, files[1:]):
            if following is None or position_of(following.stem) > position_of(after):
                behind = (entry for entry in _read(path) if position_of(entry.position) > position_of(after))
                yield from behind

    def cut(self, after: str, removed: Path) -> int:
        """Move the records behind a position to the folder `removed`; how many."""
        later = list(self.entries(after))
        InboxArchive(removed).append(later)
        for path in self._files():
            kept = [entry for entry in _read(path) if position_of(entry.position) <= position_of(after)]
            if kept:
                write_atomically(path, b"".join(map(_record, kept)))
            else:
                path.unlink()
        return len(later)

    def _files(self) -> list[Path]:
        return sorted(self._folder.glob("*.log"), key=lambda path: position_of(path.stem))

    def _cut_torn_end(self, path: Path) -> None:
        num_whole = sum(HEADER.size + len(entry.payload) for entry in _read(path))
        if num_whole < path.stat().st_size:
            logger.warning("%s: cut off %d bytes of a half-written record", path, path.stat().st_size - num_whole)
            os.truncate(path, num_whole)
        if num_whole == 0:
            path.unlink()


class ArchivedInbox:
    """An inbox whose records are read from the disk first, and trimmed from Redis only when they are archived."""

    def __init__(self, inbox: Inbox, archive: InboxArchive) -> None:
        self._inbox = inbox
        self._archive = archive
        self._unarchived: list[InboxEntry] = []  # refused by a full disk

    async def append(self, payloads: Sequence[bytes]) -> None:
        """To Redis; archived when it is read."""
        await self._inbox.append(payloads)

    async def read(self, after: str, *, max_count: int, wait_seconds: float) -> list[InboxEntry]:
        """Archived records from the disk: Redis may have lost them since."""
        if position_of(after) < position_of(self._archive.last):
            return list(islice(self._archive.entries(after), max_count))
        entries = await self._inbox.read(after, max_count=max_count, wait_seconds=wait_seconds)
        self._unarchived += entries
        try:
            self._write()
        except OSError as error:
            logger.warning("cannot archive the inbox: %s; it is not trimmed until that succeeds", error)
        return entries

    async def trim(self, through: str) -> None:
        """The inbox is trimmed up to `through`. Raises OSError, and trims nothing, when the disk is full."""
        self._write()
        await asyncio.to_thread(self._archive.close_file)
        await self._inbox.trim(through)

    async def length(self) -> int:
        """What Redis holds, archived or not."""
        return await self._inbox.length()

    def _write(self) -> None:
        self._archive.append(self._unarchived)
        self._unarchived = []


def _record(entry: InboxEntry) -> bytes:
    checksum = zlib.crc32(entry.payload)
    return HEADER.pack(*position_of(entry.position), len(entry.payload), checksum) + entry.payload


def _read(path: Path) -> Iterator[InboxEntry]:
    """Whole records, up to the first that is not."""
    with path.open("rb") as file:
        while len(header := file.read(HEADER.size)) == HEADER.size:
            milliseconds, number, length, checksum = HEADER.unpack(header)
            payload = file.read(length)
            if len(payload) < length or zlib.crc32(payload) != checksum:
                return
            yield InboxEntry(f"{milliseconds}-{number}", payload)
