"""`metrics.jsonl`: one JSON object per training step and per evaluation, in the order in which they happened."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from learner.json_lines import JsonLines
from learner.run_identity import write_atomically


class MetricsLog:
    """Appends lines; a resumed run first drops those after its checkpoint, so that no step stands there twice."""

    def __init__(
        self,
        path: Path,
        *,
        through_step: int,
        require_right: Callable[[], None] = lambda: None,
        tell: Callable[[Mapping[str, Any]], None] = lambda line: None,
    ) -> None:
        """`require_right` raises when the file is no longer this process's to write; `tell` is given each new line."""
        self._tell = tell
        self._file = JsonLines(path, require_right=require_right)
        kept = [line for line in self._file.whole_lines() if json.loads(line)["step"] <= through_step]
        write_atomically(path, "".join(kept).encode())

    @property
    def last_error(self) -> str:
        """Why the file could not be written the last time; empty when it could."""
        return self._file.last_error

    def append(self, line: Mapping[str, Any]) -> None:
        """Write one object at once. A full disk does not stop training: the line waits for the next one."""
        self._file.append([line])
        self._tell(line)
