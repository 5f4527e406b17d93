"""The KV cache of rows that decode together through a family's own forward pass: transformers' layers, kept in place.

Rows are aligned at their ends, as with padding on the left: the latest token of every row stands in the same column,
and the distance between two columns is that between two tokens. So a family makes its masks, banded ones too, as it
does for `generate`. A decode step writes one column and moves nothing; a layer with a window keeps the columns that it
looks at.
"""

from typing import Any

from torch import Tensor
from transformers.cache_utils import DynamicLayer

NUM_SPARE_COLUMNS = 256  # free ones in a new storage: steps until the next copy


class AlignedLayer(DynamicLayer):
    """Keys and values of one attention layer, [rows, heads, columns, size] each."""

    def __init__(self, window: int | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.is_sliding = window is not None
        self.num_columns = 0  # of the longest row, with those that the window has left behind
        self._reach = None if window is None else window - 1
        self._storage: list[Tensor] = []  # keys and values, when there are some
        self._end = 0  # columns of the storage before it are written
        self._num_rows = 0

    @property
    def num_kept(self) -> int:
        """Columns that the next token looks at, beside its own."""
        return self.num_columns if self._reach is None else min(self.num_columns, self._reach)

    def get_seq_length(self) -> int:
        """Columns in front of the next token, as the attention mask counts them."""
        return self.num_columns

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """How many columns `update` will return, and how many of the mask's stand in front of them."""
        return self.num_kept + query_length, self.num_columns - self.num_kept

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Append one column; views of it and of those that it looks at."""
        if not self._storage:
            self._storage = [_columns_like(new, len(new), 1) for new in (key_states, value_states)]
        if self._end == self._storage[0].shape[2]:
            self._renew(len(self._storage[0]), num_kept=self.num_kept)
        used = slice(self._end - self.num_kept, self._end + 1)
        num_rows = len(key_states)
        for stored, new in zip(self._storage, (key_states, value_states), strict=True):
            stored[:num_rows, :, self._end] = new[:, :, 0]
        self._end += 1
        self.num_columns += 1
        self.keys, self.values = (stored[:num_rows, :, used] for stored in self._storage)
        return self.keys, self.values

    def move(self, sources: Tensor, places: Tensor) -> None:
        """Copy rows over others."""
        used = slice(self._end - self.num_kept, self._end)
        for stored in self._storage:
            stored[places, :, used] = stored[sources, :, used]

    def resize(self, num_rows: int, num_columns: int) -> None:
        """Make room for the rows, of which the longest has `num_columns` tokens."""
        num_kept, self.num_columns, self._num_rows = self.num_kept, num_columns, num_rows
        if self._storage and (len(self._storage[0]) < num_rows or self._end < self.num_kept):
            self._renew(max(num_rows, len(self._storage[0])), num_kept=num_kept)

    def take(self, layer: Any, sources: Tensor, places: Tensor) -> None:
        """Copy rows of a layer that prefill has filled, where they are aligned at their ends too."""
        if layer.keys is None:
            return
        if not self._storage:
            self._end = self.num_kept
            self._storage = [_columns_like(new, self._num_rows, self._end) for new in (layer.keys, layer.values)]
        columns = slice(self._end - layer.keys.shape[2], self._end)
        for stored, new in zip(self._storage, (layer.keys, layer.values), strict=True):
            stored[places, :, columns] = new[sources]

    def copy_beginning(self, source: int, place: int, *, length: int, num_tokens: int) -> None:
        """Let the row at `place` be the first `num_tokens` of the `length` tokens of the row at `source`."""
        first = self._end - length
        for stored in self._storage:
            stored[place, :, self._end - num_tokens : self._end] = stored[source, :, first : first + num_tokens]

    def _renew(self, num_rows: int, *, num_kept: int) -> None:
        """Move the columns in use into a storage with room for more."""
        end = self.num_kept
        used = slice(self._end - min(num_kept, end), self._end)
        renewed = []
        for old in self._storage:
            new = _columns_like(old, num_rows, end)
            new[: len(old), :, end - (used.stop - used.start) : end] = old[:, :, used]
            renewed.append(new)
        self._storage, self._end = renewed, end


def _columns_like(entries: Tensor, num_rows: int, num_written: int) -> Tensor:
    """Zeros [rows, heads, columns, size]: finite numbers, to which masks give the probability 0."""
    return entries.new_zeros(num_rows, entries.shape[1], num_written + NUM_SPARE_COLUMNS, entries.shape[3])
