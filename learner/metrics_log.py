"""`metrics.jsonl`: one JSON object per training step and per evaluation, in the order in which they happened."""

import errno
import json
import logging
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from learner.run_identity import write_atomically

logger = logging.getLogger(__name__)


class MetricsLog:
    """Appends lines; a resumed run first drops those after its checkpoint, so that no step stands there twice."""

    def __init__(self, path: Path, *, through_step: int) -> None:
        self._path = path
        self._unwritten = ""  # lines that a full disk did not take
        self.last_error = ""
        kept = [line for line in self._lines() if json.loads(line)["step"] <= through_step]
        write_atomically(path, "".join(kept).encode())

    def append(self, line: Mapping[str, Any]) -> None:
        """Write one object at once; numbers that are not finite, which JSON lacks, become null.

        A full disk does not stop training: the line waits for the next one.
        """
        finite = {name: None if _is_not_finite(value) else value for name, value in line.items()}
        self._unwritten += json.dumps(finite, allow_nan=False) + "\n"
        try:
            self._write()
            self.last_error = ""
        except OSError as error:
            self.last_error = f"{self._path.name}: {error}"
            logger.warning("cannot write %s: %s; the next line tries again", self._path, error)

    def _write(self) -> None:
        """All that is not written yet, or nothing of it."""
        with self._path.open("ab", buffering=0) as file:
            size = file.tell()
            content = self._unwritten.encode()
            try:
                if file.write(content) != len(content):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError:
                file.truncate(size)
                raise
        self._unwritten = ""

    def _lines(self) -> list[str]:
        """Whole lines; the last one is missing its end when the process died in writing it."""
        if not self._path.exists():
            return []
        lines = self._path.read_text(encoding="utf-8").splitlines(keepends=True)
        return [line for line in lines if line.endswith("\n")]


def _is_not_finite(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)
