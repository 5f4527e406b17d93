"""A file of JSON objects, one a line, that a full disk does not stop."""

import json
import logging
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from learner.persistence.run_identity import append_whole

logger = logging.getLogger(__name__)

MAX_WAITING_BYTES = 2**24


class JsonLines:
    """Appends. What the disk does not take waits for the next lines, up to a bound; beyond it, lines are left out."""

    def __init__(self, path: Path, *, require_right: Callable[[], None] = lambda: None) -> None:
        """`require_right` raises when the file is no longer this process's to write."""
        self.path = path
        self._require_right = require_right
        self.last_error = ""
        self._waiting = b""

    def append(self, objects: Iterable[Mapping[str, Any]]) -> None:
        """Write all of them at once; numbers that are not finite, which JSON lacks, become null."""
        lines = b"".join(json.dumps(_finite(one), allow_nan=False).encode() + b"\n" for one in objects)
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
            logger.warning("cannot write %s: %s; the next line tries again", self.path, error)

    def whole_lines(self) -> list[str]:
        """What is there; the last line is missing its end when the process died in writing it."""
        if not self.path.exists():
            return []
        lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
        return [line for line in lines if line.endswith("\n")]


def _finite(one: Mapping[str, Any]) -> dict[str, Any]:
    return {name: None if _is_not_finite(value) else value for name, value in one.items()}


def _is_not_finite(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)
