"""`completions.jsonl`: a few of the responses of every so many training steps, for the console of `tppo run`."""

from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from learner.rollouts.rollout import Rollout
from tppo.run_folder.completion_lines import completion_line
from tppo.run_folder.json_lines import JsonLinesWriter

NUM_ROWS = 4
"""Of a step: what fits on a screen."""


class CompletionsLog:
    """Of one run; texts are shortened."""

    def __init__(
        self,
        path: Path,
        *,
        every: int,
        decode: Callable[["array[int]"], str],
        require_right: Callable[[], None] = lambda: None,
    ) -> None:
        """`every` so many steps, 0: never; `require_right` raises when the file is another learner's to write."""
        self._file = JsonLinesWriter(path, require_right=require_right)
        self._every = every
        self._decode = decode

    @property
    def last_error(self) -> str:
        """Why the file could not be written the last time; empty when it could."""
        return self._file.last_error

    def note(self, rows: Sequence[Rollout], *, step: int) -> None:
        """The rows made the step: those whose response has ended are shown, others only where none has."""
        if not self._every or step % self._every:
            return
        ended = [row for row in rows if row.is_finished] or rows
        self._file.append([self._line(row, step) for row in ended[:NUM_ROWS]])

    def _line(self, row: Rollout, step: int) -> dict[str, Any]:
        return completion_line(
            step=step,
            rollout=row.rollout_id,
            prompt=row.prompt.text,
            completion=self._decode(row.response_tokens),
            num_tokens=len(row.response_tokens),
            score=row.score,
        )
