"""The archived inbox: `runs/NAME/inbox/*.log`, one file from checkpoint to checkpoint. It is the source of truth; Redis
is the way to it.

A record is its position (two uint64), the payload's length and CRC-32 (two uint32), all little-endian, and the payload.
It is forced to the disk (fsync) before the learner sees it, and so before a training step uses it. What a crash left
half written at the end of the last file is cut off: Redis still has it, because the inbox is trimmed
(`ArchivedInbox.trim`, called after each committed checkpoint) only up to what is on the disk here. A record that is
archived already, a duplicate read after a restart, is recognised by its position and not written again.
"""

import asyncio
import logging
import os
import re
import struct
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from itertools import islice, zip_longest
from pathlib import Path

from tppo.config import ConfigError
from tppo.run_folder.durable import append_whole, write_atomically
from tppo.run_folder.paths import RunPaths
from tppo.security.envelope import PLAIN, Records, is_sealed
from tppo.security.record_keys import kept_records
from tppo.streams import Inbox, InboxEntry
from tppo.streams.contract import BEGINNING, position_of

logger = logging.getLogger(__name__)

NAME = re.compile(r"[0-9]{1,20}-[0-9]{1,20}\.log")
HEADER = struct.Struct("<QQII")
READ_COUNT = 256  # records per read that fills a gap


class InboxArchive:
    """The files of one run, for one writer."""

    def __init__(self, folder: Path, *, require_right: Callable[[], None] = lambda: None) -> None:
        """`require_right` raises when the files are no longer this process's to write."""
        self._folder = folder
        self._require_right = require_right
        self._appending = threading.Lock()
        self._current: Path | None = None  # the file that is written to
        self.last = self._last_whole_position()

    def append(self, entries: Sequence[InboxEntry]) -> None:
        """Write those that are not archived yet, all or none, to the disk. Raises OSError when it is full."""
        with self._appending:
            last, new = self.last, []
            for entry in entries:
                if position_of(entry.position) > position_of(last):
                    new.append(entry)
                    last = entry.position
            if not new:
                return
            self._require_right()
            self._folder.mkdir(parents=True, exist_ok=True)
            path = self._current or self._folder / f"{new[0].position}.log"
            append_whole(path, b"".join(map(_record, new)), is_synced=True)
            self.last, self._current = last, path

    def close_file(self) -> None:
        """The next record begins another file."""
        with self._appending:
            self._current = None

    def entries(self, after: str) -> Iterator[InboxEntry]:
        """The records behind a position, in order. Raises `ConfigError` where one in the middle is damaged."""
        files = self._files()
        for path, following in zip_longest(files, files[1:]):
            if following is None or position_of(following.stem) > position_of(after):
                num_whole = 0
                for entry in _read(path):
                    num_whole += HEADER.size + len(entry.payload)
                    if position_of(entry.position) > position_of(after):
                        yield entry
                if following is not None and num_whole < path.stat().st_size:
                    raise ConfigError(f"{path}: a damaged record at byte {num_whole}; expected a whole archived inbox")

    def cut(self, after: str, removed: Path, *, keep: Callable[[InboxEntry], bool] = lambda entry: False) -> int:
        """Move the records behind a position to the folder `removed`, but those to `keep`; how many."""

        def stays(entry: InboxEntry) -> bool:
            return position_of(entry.position) <= position_of(after) or keep(entry)

        later = [entry for entry in self.entries(after) if not keep(entry)]
        InboxArchive(removed).append(later)
        for path in self._files():
            kept = [entry for entry in _read(path) if stays(entry)]
            if kept:
                write_atomically(path, b"".join(map(_record, kept)))
            else:
                path.unlink()
        return len(later)

    def _files(self) -> list[Path]:
        own = (path for path in self._folder.glob("*.log") if NAME.fullmatch(path.name))
        return sorted(own, key=lambda path: position_of(path.stem))

    def _last_whole_position(self) -> str:
        for path in reversed(self._files()):
            last = self._cut_torn_end(path)
            if last is not None:
                return last
        return BEGINNING

    def _cut_torn_end(self, path: Path) -> str | None:
        """The position of the last whole record; a file without one is deleted."""
        num_whole, last = 0, None
        for entry in _read(path):
            num_whole += HEADER.size + len(entry.payload)
            last = entry.position
        if num_whole < path.stat().st_size:
            logger.warning("%s: cut off %d bytes of a half-written record", path, path.stat().st_size - num_whole)
            os.truncate(path, num_whole)
        if num_whole == 0:
            path.unlink()
        return last


class ArchivedInbox:
    """An inbox whose records are on the disk before they are read, read from there first, and then trimmed from Redis.

    A full disk stops no reading: what it refuses stays in Redis, and is written as soon as there is room.
    """

    def __init__(self, inbox: Inbox, archive: InboxArchive) -> None:
        self._inbox = inbox
        self._archive = archive
        self._taken = archive.last  # up to here every record is archived, or among those that follow
        self._unarchived: list[InboxEntry] = []  # refused by a full disk
        self._writing = asyncio.Lock()
        self._cursors: dict[str, Iterator[InboxEntry]] = {}  # where a reader of the files goes on, by position

    async def append(self, payloads: Sequence[bytes]) -> None:
        """To Redis; archived when it is read."""
        await self._inbox.append(payloads)

    async def read(self, after: str, *, max_count: int, wait_seconds: float) -> list[InboxEntry]:
        """Archived records from the disk: Redis may have lost them since."""
        if position_of(after) < position_of(self._archive.last):
            return await asyncio.to_thread(self._read_files, after, max_count)
        await self._take_through(after)
        entries = await self._inbox.read(after, max_count=max_count, wait_seconds=wait_seconds)
        self._take(entries)
        try:
            await self._write()
        except OSError as error:
            logger.warning("cannot archive the inbox: %s; it is not trimmed until that succeeds", error)
        return entries

    async def trim(self, through: str) -> None:
        """The inbox is trimmed up to `through`. Raises OSError, and trims nothing, when the disk is full."""
        await self._take_through(through)
        await self._write()
        self._archive.close_file()
        await self._inbox.trim(through)

    async def last(self) -> str:
        """Of what Redis holds, or was read of it before it lost it."""
        return max(self._taken, await self._inbox.last(), key=position_of)

    async def length(self) -> int:
        """What Redis holds, archived or not."""
        return await self._inbox.length()

    def _read_files(self, after: str, max_count: int) -> list[InboxEntry]:
        records = self._cursors.pop(after, None) or self._archive.entries(after)
        found = list(islice(records, max_count))
        if len(found) == max_count:
            self._cursors = {found[-1].position: records}
        return found

    async def _take_through(self, position: str) -> None:
        """A full disk has refused them, and then the learner was killed: Redis has them, as it was not trimmed."""
        while position_of(self._taken) < position_of(position):
            entries = await self._inbox.read(self._taken, max_count=READ_COUNT, wait_seconds=0)
            passed = [entry for entry in entries if position_of(entry.position) <= position_of(position)]
            self._take(passed)
            if not passed:
                return

    def _take(self, entries: Sequence[InboxEntry]) -> None:
        for entry in entries:
            if position_of(entry.position) > position_of(self._taken):
                self._unarchived.append(entry)
                self._taken = entry.position

    async def _write(self) -> None:
        async with self._writing:
            if entries := list(self._unarchived):
                await asyncio.to_thread(self._archive.append, entries)
                del self._unarchived[: len(entries)]


def archived_records_reader(folder: Path) -> Records:
    """By what a run's archived records are read. Raises `ConfigError` where their keys are missing."""
    paths = RunPaths(folder)
    if (kept := kept_records(folder)) is not None:
        return kept
    first = next(InboxArchive(paths.inbox).entries(BEGINNING), None)
    if first is not None and is_sealed(first.payload):
        raise ConfigError(
            f"{paths.record_secret}: no such file; expected the one with which the records in {paths.inbox} were sealed"
        )
    return PLAIN  # of a release whose records had no envelope


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
