"""The numbers of `metrics.jsonl` by name: one array each, however many steps there are."""

import math
from array import array
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tppo.run_folder.json_lines import plain

MAX_LINES = 40_000
"""Then every second line is left out: a longer history at half the resolution, in bounded memory."""
MAX_NAMES = 500
MISSING = math.nan


class Columns:
    """Lines of one kind by their steps, column by column; a name that a line lacks is missing there."""

    def __init__(self, *, max_lines: int = MAX_LINES) -> None:
        self._max_lines = max_lines
        self._columns: dict[str, array[float]] = {}
        self.num_lines = 0
        self.latest: dict[str, Any] = {}

    @property
    def names(self) -> list[str]:
        """Of everything that was a number at least once, in alphabetical order."""
        return sorted(self._columns)

    def add(self, line: Mapping[str, Any]) -> None:
        """Another line; an evaluation may end after that of a later step, and stands before it all the same."""
        numbers = {name: value for name, value in line.items() if _is_number(value)}
        row = self._row_for(numbers.get("step"))
        if row == self.num_lines:
            self.latest = plain(dict(line))
        for name in numbers.keys() - self._columns.keys():
            if len(self._columns) < MAX_NAMES:
                self._columns[name] = array("d", [MISSING]) * self.num_lines
        for name, column in self._columns.items():
            column.insert(row, numbers.get(name, MISSING))
        self.num_lines += 1
        if self.num_lines > self._max_lines:
            self._halve()

    def _row_for(self, step: float | None) -> int:
        """Behind all lines of this step and of earlier ones."""
        row, steps = self.num_lines, self._columns.get("step")
        while steps is not None and step is not None and row > 0 and steps[row - 1] > step:
            row -= 1
        return row

    def values(self, name: str, rows: Iterable[int] | None = None) -> list[float | None]:
        """A column, or the given rows of it; None where it is missing."""
        column = self._columns.get(name)
        if column is None:
            return [None] * (self.num_lines if rows is None else len(list(rows)))
        picked = column if rows is None else [column[row] for row in rows]
        return [value if value == value else None for value in picked]  # only a missing one differs from itself

    def copied(self, names: Iterable[str]) -> "list[array[float]]":
        """These columns as they are now; a missing number is not a number."""
        missing = array("d", [MISSING]) * self.num_lines
        return [array("d", self._columns.get(name, missing)) for name in names]

    def newest(self, name: str, count: int) -> list[float | None]:
        """The last `count` values."""
        return self.values(name, range(max(0, self.num_lines - count), self.num_lines))

    def rows(self, *, from_step: int = 0, max_points: int) -> Sequence[int]:
        """Rows from a step on, thinned evenly to so many; the last one is always among them."""
        steps = self._columns.get("step")
        if steps is None or max_points <= 0:
            return []
        wanted = [row for row, step in enumerate(steps) if step >= from_step] if from_step > 0 else range(len(steps))
        return evenly(wanted, max_points)

    def _halve(self) -> None:
        """Keep every second line, the last one among them."""
        first = (self.num_lines - 1) % 2
        self._columns = {name: column[first::2] for name, column in self._columns.items()}
        self.num_lines = len(range(first, self.num_lines, 2))


def evenly(items: Sequence[int], count: int) -> Sequence[int]:
    """At most `count` of the items, as far from each other as they can be; the last one among them."""
    if len(items) <= count:
        return items
    if count == 1:
        return [items[-1]]
    return [items[round(place * (len(items) - 1) / (count - 1))] for place in range(count)]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and _is_finite(value)


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond every float
        return False
