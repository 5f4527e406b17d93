"""Which rows share an attention call.

A call over several rows reads each of them as if it were as long as the longest. Rows of mixed lengths are therefore
split into runs of neighbours, at the places that make the sum of what is read and of the calls' overhead least.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from services.generation.transformers_engine.decoders.kv_cache import COLUMN_BLOCK, AlignedCache, round_up

MAX_GROUPS = 6


@dataclass(frozen=True, slots=True)
class Rectangle:
    """Rows that are read in one attention call: views of the cache."""

    rows: slice
    keys: tuple[Tensor, ...]  # per layer [rows, kv_heads, columns, head_dim]
    values: tuple[Tensor, ...]
    mask: Tensor  # [rows, 1, 1, columns]


class Rectangles:
    """The rectangles that cover a cache; their views are made again once in `COLUMN_BLOCK` steps."""

    def __init__(self, cache: AlignedCache, *, overhead: int) -> None:
        """`overhead` of one more call, in positions of one row."""
        self._cache = cache
        self._overhead = overhead
        self._groups: list[range] = []
        self._rectangles: list[Rectangle] = []
        self._valid_for: tuple[int, int] | None = None  # alignment and block of columns

    def arrange(self) -> None:
        """Split the rows again, after some have come or gone."""
        lengths = self._cache.lengths
        self._groups = split_into_groups(lengths, overhead=self._overhead) if lengths else []
        self._rectangles, self._valid_for = [], None  # old views would keep a cache's memory

    def around(self, column: int) -> list[Rectangle]:
        """Views of the rows up to the end of the block that the latest column is in."""
        wanted = (self._cache.num_realignments, column // COLUMN_BLOCK)
        if wanted != self._valid_for:
            stop = round_up(column + 1)
            self._rectangles = [self._view(group, stop) for group in self._groups]
            self._valid_for = wanted
        return self._rectangles

    def _view(self, group: range, stop: int) -> Rectangle:
        rows = slice(group.start, group.stop)
        longest = max(self._cache.lengths[rows])
        columns = slice((self._cache.end - longest) // COLUMN_BLOCK * COLUMN_BLOCK, stop)
        keys, values = self._cache.entries[:, :, rows, :, columns].unbind(1)
        return Rectangle(rows, keys.unbind(0), values.unbind(0), self._cache.mask[rows, None, None, columns])


def split_into_groups(lengths: Sequence[int], *, overhead: int) -> list[range]:
    """Split rows, in the order given, into at most `MAX_GROUPS` runs of neighbours at the least cost.

    A run costs its number of rows times its longest length, plus `overhead` in the same unit.
    """
    num_rows = len(lengths)
    last = np.arange(num_rows)
    covers = last[:, None] <= last  # [first row, last row]
    longest = np.maximum.accumulate(np.where(covers, lengths, 0), axis=1)
    costs = np.where(covers, (last - last[:, None] + 1) * longest + overhead, np.inf)
    best = [costs[0]]  # cost of rows 0..last in one group, in at most two, ...
    cuts = [np.zeros(num_rows, dtype=np.intp)]  # first row of the last of these groups
    for _ in range(MAX_GROUPS - 1):
        before = np.concatenate(([0.0], best[-1][:-1]))  # rows in front of the last group
        totals = before[:, None] + costs
        cuts.append(totals.argmin(axis=0))
        best.append(totals[cuts[-1], last])
    return _follow(cuts, num_rows)


def _follow(cuts: Sequence["np.ndarray[tuple[int], np.dtype[np.intp]]"], num_rows: int) -> list[range]:
    groups: list[range] = []
    stop = num_rows
    for cut in reversed(cuts):
        if stop == 0:
            break
        first = int(cut[stop - 1])
        groups.append(range(first, stop))
        stop = first
    return groups[::-1]
