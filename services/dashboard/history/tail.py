"""Follows a file of JSON lines that another process appends to, a slice at a time.

A file that was replaced or cut short (a resumed learner drops the lines after its checkpoint) is read anew. Of a file
that is long already, only the end is read.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from services.dashboard.history.json_values import parsed_object

SLICE_BYTES = 128 * 1024
"""Parsed in about 5 ms: that long nobody else on the event loop is served."""
START_BYTES = 64 * 1024 * 1024
"""Of a longer file, the older lines are left out."""
LONGEST_LINE_BYTES = 16 * 1024 * 1024
"""A line beyond this is no line of ours; it is left out instead of filling the memory."""

Line = tuple[int, dict[str, Any]]
"""Where it ends in the file, which never falls while the file grows, and what it says."""


@dataclass(frozen=True, slots=True)
class Slice:
    """Lines that were not seen before."""

    lines: list[Line] = field(default_factory=list)
    is_anew: bool = False
    """The file is another one, or was cut short: forget what it said before."""
    has_more: bool = False


class LineTail:
    """A position in a growing file."""

    def __init__(self, path: Path, *, start_bytes: int = START_BYTES, slice_bytes: int = SLICE_BYTES) -> None:
        self._path = path
        self._start_bytes = start_bytes
        self._slice_bytes = slice_bytes
        self._inode: int | None = None
        self._offset = 0
        self._partial = b""
        self._skips_to_newline = False

    def read(self) -> Slice:
        """The next slice; empty while the file is missing or says nothing new."""
        try:
            with self._path.open("rb") as file:
                is_anew = self._find_place(file.fileno())
                file.seek(self._offset)
                data = file.read(self._slice_bytes)
                has_more = self._offset + len(data) < file.seek(0, 2)
        except OSError:
            return Slice()
        return Slice(self._lines_in(data), is_anew=is_anew, has_more=has_more)

    def _find_place(self, descriptor: int) -> bool:
        """Whether the file is not the one that was read before."""
        status = os.fstat(descriptor)
        if status.st_ino == self._inode and status.st_size >= self._offset:
            return False
        was_known = self._inode is not None
        self._inode = status.st_ino
        self._offset = max(0, status.st_size - self._start_bytes)
        self._partial = b""
        self._skips_to_newline = self._offset > 0
        return was_known

    def _lines_in(self, data: bytes) -> list[Line]:
        start = self._offset - len(self._partial)
        self._offset += len(data)
        text = self._partial + data
        end = text.rfind(b"\n") + 1
        self._partial = text[end:]
        if len(self._partial) > LONGEST_LINE_BYTES:
            self._partial, self._skips_to_newline = b"", True
        if not end:
            return []
        lines: list[Line] = []
        position = start
        for line in text[:end].split(b"\n")[:-1]:
            position += len(line) + 1
            if self._skips_to_newline:
                self._skips_to_newline = False
            elif (parsed := parsed_object(line)) is not None:
                lines.append((position, parsed))
        return lines
