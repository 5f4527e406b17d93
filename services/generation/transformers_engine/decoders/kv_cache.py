"""The KV cache of the fast path: keys and values of the running rows, aligned at their ends.

The latest token of every row stands in the same column, the earlier ones to its left. So a decode step writes one
column of all rows, rows of similar length are read as one rectangle, and a mask that is set when a row begins stays
valid while it grows. When the columns are used up, the rows move back to the left.
"""

from collections.abc import Iterable

import torch

COLUMN_BLOCK = 16  # rectangles begin and end at multiples of it: their views live that many steps, and stay aligned
NUM_SPARE_COLUMNS = 256  # free ones after growing: steps until the rows move to the left
MIN_SPARE_COLUMNS = 64  # when a move would free fewer, the cache grows instead of moving again soon


def round_up(number: int, block: int = COLUMN_BLOCK) -> int:
    """The next multiple of `block`."""
    return -(-number // block) * block


class AlignedCache:
    """A KV cache [layers, 2 (keys, values), slots, kv_heads, columns, head_dim]; columns before `end` are written.

    Unwritten places hold zeros or old values, finite ones: the mask gives them the probability 0.
    """

    def __init__(
        self,
        *,
        num_layers: int,
        num_slots: int,
        num_kv_heads: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.entries = torch.zeros(num_layers, 2, num_slots, num_kv_heads, 0, head_dim, dtype=dtype, device=device)
        self.num_realignments = 0  # views of the columns are valid until it changes
        self.reset()

    def reset(self) -> None:
        """Forget all rows and what they left in memory."""
        self.entries = self.entries.new_zeros(*self.entries.shape[:-2], 0, self.entries.shape[-1])
        self.mask = self.entries.new_empty(self.entries.shape[2], 0)  # [slots, columns] 0: a token, -inf: none
        self.lengths: list[int] = []  # tokens cached of each row
        self.end = 0
        self.num_realignments += 1

    def make_room(self, before: int = 0) -> None:
        """Let column `end` exist, and at least `before` columns in front of it."""
        if before <= self.end < self.mask.shape[1]:
            return
        longest = max(self.lengths, default=0)
        end = round_up(max(longest, before))
        if end + MIN_SPARE_COLUMNS <= self.mask.shape[1]:
            self._shift(end)
        else:
            self._grow(round_up(end + NUM_SPARE_COLUMNS), end, longest)
        self.end = end
        self.num_realignments += 1
        self._restore_mask(range(len(self.lengths)))

    def open_column(self) -> int:
        """Append a column to all rows and return its index; their keys and values are to be written there."""
        self.make_room()
        column = self.end
        self.mask[: len(self.lengths), column] = 0
        self.lengths = [length + 1 for length in self.lengths]
        self.end += 1
        return column

    def clear_row(self, row: int) -> None:
        """Let the row hold no tokens."""
        self.lengths[row] = 0

    def truncate(self, num_rows: int) -> None:
        """Drop the rows from `num_rows` on."""
        del self.lengths[num_rows:]

    def set_row(self, row: int, length: int) -> None:
        """Give a place to a row whose `length` keys and values are to be written in front of `end`."""
        if row == len(self.lengths):
            self.lengths.append(length)
        else:
            self.lengths[row] = length
        self._restore_mask([row])

    def move_row(self, source: int, target: int) -> None:
        """Copy a row over another; the source's place stays as it is."""
        length = self.lengths[source]
        columns = slice(self.end - length, self.end)
        self.entries[:, :, target, :, columns] = self.entries[:, :, source, :, columns]
        self.set_row(target, length)

    def copy_beginning(self, source: int, place: int, num_tokens: int, *, layer: int | None = None) -> None:
        """Let a row begin with the first tokens of another one, in one layer or in all; its length stays."""
        first, start = (self.end - self.lengths[row] for row in (source, place))
        entries = self.entries if layer is None else self.entries[layer : layer + 1]
        entries[:, :, place, :, start : start + num_tokens] = entries[:, :, source, :, first : first + num_tokens]

    def permute(self, order: list[int]) -> None:
        """Put row `order[i]` in place i."""
        changed = [row for row, source in enumerate(order) if row != source]
        lengths = [self.lengths[row] for row in order]
        copies = {row: self.row(row).clone() for row in changed}
        self.lengths = lengths
        for row in changed:
            self.row(row).copy_(copies[order[row]])
        self._restore_mask(changed)

    def row(self, row: int) -> torch.Tensor:
        """Keys and values [layers, 2, kv_heads, tokens, head_dim] of a row."""
        tokens: torch.Tensor = self.entries[:, :, row, :, self.end - self.lengths[row] : self.end]
        return tokens

    def _restore_mask(self, rows: Iterable[int]) -> None:
        for row in rows:
            self.mask[row] = float("-inf")
            self.mask[row, self.end - self.lengths[row] : self.end] = 0

    def _shift(self, end: int) -> None:
        for row, length in enumerate(self.lengths):
            tokens = self.row(row).clone()  # the two places may overlap
            self.entries[:, :, row, :, end - length : end] = tokens

    def _grow(self, num_columns: int, end: int, longest: int) -> None:
        old, old_end = self.entries, self.end
        self.entries = old.new_zeros(*old.shape[:-2], num_columns, old.shape[-1])
        self.entries[..., end - longest : end, :] = old[..., old_end - longest : old_end, :]
        self.mask = old.new_empty(old.shape[2], num_columns)
