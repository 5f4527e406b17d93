"""Files of JSON objects, one a line, that one process appends to while others read them.

A reader leaves out a torn line (its writer was killed) and a foreign one (a broken disk, another program), and takes up
a line that is still being written once it is whole.
"""

import json
import logging
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from tppo.run_folder.durable import append_whole

logger = logging.getLogger(__name__)

MAX_WAITING_BYTES = 2**24
MAX_DEPTH = 16
"""Deeper values are cut: serializers give up at some depth, and nothing of ours goes beyond four."""
SLICE_BYTES = 128 * 1024
"""Parsed in about 5 ms: an event loop serves nothing else meanwhile."""
START_BYTES = 64 * 1024 * 1024
"""Of a longer file, the older lines are left out."""
LONGEST_LINE_BYTES = 16 * 1024 * 1024
"""A line beyond this is none of ours; it is left out instead of filling the memory."""
LONGEST_INTEGER = 19
"""Characters; one that is longer fits into no 64 bits, and may be too large for a float."""
LARGEST_NUMBER = 10**LONGEST_INTEGER
SUSPICIOUS_NUMBER = re.compile(rb"\d[eE]\+?\d\d\d|(?<![.\d])\d{19}|\d{300}|NaN|Infinity")
FINITE_ENCODER = json.JSONEncoder(allow_nan=False)
COMPARED_BYTES = 256
"""Of what was read last: when other bytes stand there now, the file was rewritten in place."""

Fields = dict[str, Any]
Line = tuple[int, Fields]
"""Where it ends in the file, which only grows while the file is appended to, and its object."""


class JsonLinesWriter:
    """Appends. What a full disk refuses waits for the next lines, up to a bound; beyond it, lines are left out."""

    def __init__(self, path: Path, *, require_right: Callable[[], None] = lambda: None) -> None:
        """`require_right` raises when the file is no longer this process's to write."""
        self.path = path
        self._require_right = require_right
        self.last_error = ""
        self._waiting: bytes | None = None  # until the file's end was looked at

    def append(self, objects: Iterable[Mapping[str, Any]]) -> None:
        """Write all of them at once, with what waits; without objects, retry what waits."""
        if self._waiting is None:
            self._waiting = b"\n" if _has_torn_end(self.path) else b""
        lines = b"".join(map(json_line, objects))
        if len(self._waiting) + len(lines) <= MAX_WAITING_BYTES:
            self._waiting += lines
        if not self._waiting:
            return
        self._require_right()
        try:
            append_whole(self.path, self._waiting)
            self._waiting, self.last_error = b"", ""
        except OSError as error:
            self.last_error = f"{self.path.name}: {error}"
            logger.warning("cannot write %s: %s; retried with the next line", self.path, error)


def json_line(one: Mapping[str, Any]) -> bytes:
    """The object as a line; numbers that are not finite, which JSON lacks, become null."""
    try:
        return _text(one)
    except ValueError:  # rare, so that the encoder looks for them and not we
        return _text({name: None if _is_not_finite(value) else value for name, value in one.items()})


def _text(one: Mapping[str, Any]) -> bytes:
    return FINITE_ENCODER.encode(dict(one)).encode() + b"\n"


def read_objects(path: Path, *, first_bytes: int | None = None, last_bytes: int | None = None) -> list[Fields]:
    """The objects of a file's whole lines, or of those among its first or its last bytes; none where it is missing."""
    try:
        with path.open("rb") as file:
            start = max(0, os.fstat(file.fileno()).st_size - last_bytes) if last_bytes is not None else 0
            file.seek(start)
            text = file.read(-1 if first_bytes is None else first_bytes)
    except OSError:
        return []
    lines = text.split(b"\n")[1 if start else 0 : -1]
    return [parsed for line in lines if (parsed := parsed_object(line)) is not None]


def parsed_object(line: bytes) -> Fields | None:
    """The object in a line, fit to be passed on; None for a torn or foreign line."""
    try:
        value = finite_json(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict):
        return None
    has_escapes = b"\\u" in line or not line.isascii()
    cleaned: Fields = plain(value) if has_escapes else value
    return cleaned


def finite_json(text: bytes) -> Any:
    """Parsed, with null for each number that is not finite or too large to count with, such as 1e400.

    Raises ValueError or RecursionError.
    """
    if SUSPICIOUS_NUMBER.search(text) is None:  # the common case, in which the parser calls nothing of ours
        return json.loads(text)
    return json.loads(text, parse_float=_finite, parse_int=_countable, parse_constant=lambda name: None)


def _finite(text: str) -> float | None:
    number = float(text)
    return number if math.isfinite(number) else None


def _countable(text: str) -> int | None:
    return int(text) if len(text) <= LONGEST_INTEGER else None


def plain(value: Any, depth: int = MAX_DEPTH) -> Any:
    """The value with half surrogate pairs replaced, cut where it is too deep, and null for what is no usable number."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict):
        return {plain(key): plain(item, depth - 1) for key, item in value.items()} if depth else "(too deep)"
    if isinstance(value, list):
        return [plain(item, depth - 1) for item in value] if depth else "(too deep)"
    is_number = isinstance(value, int | float)
    return value if not is_number or (abs(value) <= LARGEST_NUMBER and math.isfinite(value)) else None


@dataclass(frozen=True, slots=True)
class Slice:
    """Lines that were not read before."""

    lines: list[Line] = field(default_factory=list)
    is_replaced: bool = False
    """The file is another one, or was cut short or rewritten: what was read of it before no longer holds."""
    has_more: bool = False


class JsonLinesFollower:
    """A position in a growing file. Of a file that is long already, only the end is read."""

    def __init__(self, path: Path, *, start_bytes: int = START_BYTES, slice_bytes: int = SLICE_BYTES) -> None:
        self._path = path
        self._start_bytes = start_bytes
        self._slice_bytes = slice_bytes
        self._inode: int | None = None
        self._offset = 0
        self._read_last = b""
        self._partial = b""
        self._skips_to_newline = False

    def read(self) -> Slice:
        """The next slice; empty while the file is missing or has nothing new."""
        try:
            with self._path.open("rb") as file:
                is_replaced = self._find_place(file)
                file.seek(self._offset)
                data = file.read(self._slice_bytes)
                has_more = self._offset + len(data) < file.seek(0, os.SEEK_END)
        except OSError:
            return Slice()
        return Slice(self._lines_in(data), is_replaced=is_replaced, has_more=has_more)

    def read_all(self) -> Slice:
        """Everything new, in one slice."""
        whole = self.read()
        while whole.has_more:
            more = self.read()
            earlier = [] if more.is_replaced else whole.lines
            whole = Slice([*earlier, *more.lines], whole.is_replaced or more.is_replaced, more.has_more)
        return whole

    def _find_place(self, file: BinaryIO) -> bool:
        """Whether the file is not the one that was read before."""
        status = os.fstat(file.fileno())
        file.seek(self._offset - len(self._read_last))
        if status.st_ino == self._inode and file.read(len(self._read_last)) == self._read_last:
            return False
        was_known = self._inode is not None
        self._inode = status.st_ino
        self._offset = max(0, status.st_size - self._start_bytes)
        self._read_last = self._partial = b""
        self._skips_to_newline = self._offset > 0
        return was_known

    def _lines_in(self, data: bytes) -> list[Line]:
        position = self._offset - len(self._partial)
        self._offset += len(data)
        self._read_last = (self._read_last + data)[-COMPARED_BYTES:]
        text = self._partial + data
        end = text.rfind(b"\n") + 1
        self._partial = text[end:]
        if len(self._partial) > LONGEST_LINE_BYTES:
            self._partial, self._skips_to_newline = b"", True
        if not end:
            return []
        lines: list[Line] = []
        for line in text[:end].split(b"\n")[:-1]:
            position += len(line) + 1
            if self._skips_to_newline:
                self._skips_to_newline = False
            elif (parsed := parsed_object(line)) is not None:
                lines.append((position, parsed))
        return lines


def _has_torn_end(path: Path) -> bool:
    """Whether a writer was killed within the last line: the next one must not continue it."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 1))
            return size > 0 and file.read(1) != b"\n"
    except OSError:
        return False


def _is_not_finite(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)
