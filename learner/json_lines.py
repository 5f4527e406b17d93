"""A file of JSON objects, one a line, that a full disk does not stop."""

import errno
import json
import logging
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

MAX_WAITING_BYTES = 2**24


class JsonLines:
    """Appends. What the disk does not take waits for the next lines, up to a bound; beyond it, lines are left out."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.last_error = ""
        self._waiting = b""

    def append(self, objects: Iterable[Mapping[str, Any]]) -> None:
        """Write all of them at once; numbers that are not finite, which JSON lacks, become null."""
        lines = b"".join(json.dumps(_finite(one), allow_nan=False).encode() + b"\n" for one in objects)
        if len(self._waiting) + len(lines) <= MAX_WAITING_BYTES:
            self._waiting += lines
        if not self._waiting:
            return
        try:
            self._write()
            self.last_error = ""
        except OSError as error:
            self.last_error = f"{self.path.name}: {error}"
            logger.warning("cannot write %s: %s; the next line tries again", self.path, error)

    def whole_lines(self) -> list[str]:
        """What is there; the last line is missing its end when the process died in writing it."""
        if not self.path.exists():
            return []
        lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
        return [line for line in lines if line.endswith("\n")]

    def _write(self) -> None:
        """All that is not written yet, or nothing of it."""
        with self.path.open("ab", buffering=0) as file:
            size = file.tell()
            try:
                if file.write(self._waiting) != len(self._waiting):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError:
                file.truncate(size)
                raise
        self._waiting = b""


def _finite(one: Mapping[str, Any]) -> dict[str, Any]:
    return {name: None if _is_not_finite(value) else value for name, value in one.items()}


def _is_not_finite(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)
