"""`metrics.jsonl`: one JSON object per training step and per evaluation, in the order in which they happened."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tppo.run_folder.durable import write_atomically
from tppo.run_folder.json_lines import JsonLinesWriter, json_line, read_objects

EVALUATION = "evaluation"


class MetricsLog:
    """Appends lines; a resumed run first drops those after its checkpoint, so that no step stands there twice.

    An evaluation may end after the checkpoint of its step: the line that an earlier life wrote about it stays.
    """

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
        self._file = JsonLinesWriter(path, require_right=require_right)
        kept = [line for line in read_objects(path) if line["step"] <= through_step]
        self._evaluated_steps = {line["step"] for line in kept if line.get("kind") == EVALUATION}
        write_atomically(path, b"".join(map(json_line, kept)))

    @property
    def last_error(self) -> str:
        """Why the file could not be written the last time; empty when it could."""
        return self._file.last_error

    def flush(self) -> None:
        """Try once more to write what a full disk has refused: at the end there is no next line."""
        self._file.append([])

    def append(self, line: Mapping[str, Any]) -> None:
        """Write one object at once. A full disk does not stop training: the line waits for the next one."""
        if line.get("kind") == EVALUATION and line["step"] in self._evaluated_steps:
            return
        self._file.append([line])
        self._tell(line)
