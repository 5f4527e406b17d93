"""Rows of tokens, packed flat and without padding into micro-batches, and their results back in rows.

A micro-batch is one long line: the rows stand one after the other in ``input_ids`` [1, total], and positions restart
with each row. Results come back flat, one number per *selected* token; the selected tokens of a row are its end: the
current window, or the whole response.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import NamedTuple

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

from learner.parallel.sequence import ALL_TOKENS, SequenceRanks


@dataclass(frozen=True)
class TokenRow:
    """Prompt and response so far; ``token_ids[start:]`` are the selected tokens."""

    token_ids: Sequence[int] | Tensor
    start: int

    def __post_init__(self) -> None:
        if not 1 <= self.start <= self.length:
            raise ValueError(f"start must lie in 1..{self.length}, so that a token precedes it; got {self.start}")

    @property
    def length(self) -> int:
        """Of all tokens."""
        return self.token_ids.shape[0] if isinstance(self.token_ids, Tensor) else len(self.token_ids)

    @property
    def num_selected(self) -> int:
        """Number of tokens for which a result is wanted."""
        return self.length - self.start


@dataclass(frozen=True)
class PackedBatch:
    """One micro-batch. A result for token t is the model's output at the position before t, which predicts it."""

    input_ids: Tensor  # [1, total]
    position_ids: Tensor  # [1, total], from 0 in each row
    row_lengths: tuple[int, ...]
    row_indices: tuple[int, ...]  # where each row stood in the list given to `pack`
    num_selected: tuple[int, ...]  # per row
    selected_positions: Tensor  # [n], into `total`: the positions that predict `target_ids`
    target_ids: Tensor  # [n]

    @property
    def last_positions(self) -> Tensor:
        """Position of each row's last token, whose output is the value of the state after it, [rows]."""
        return torch.tensor(self.row_lengths, device=self.input_ids.device).cumsum(0) - 1

    def spread(self, of_rows: Sequence[float]) -> Tensor:
        """A number of each row, for each of its selected tokens [n]."""
        return torch.tensor(of_rows).repeat_interleave(torch.tensor(self.num_selected, dtype=torch.long))

    def to(self, device: torch.device) -> "PackedBatch":
        """Return the same micro-batch with its tensors on ``device``."""
        return replace(
            self,
            input_ids=self.input_ids.to(device),
            position_ids=self.position_ids.to(device),
            selected_positions=self.selected_positions.to(device),
            target_ids=self.target_ids.to(device),
        )

    def split(self) -> "list[PackedBatch]":
        """Return one micro-batch per row, in this order, for models that cannot take several rows in one line."""
        if len(self.row_lengths) == 1:
            return [self]
        row_starts = accumulate(self.row_lengths, initial=0)
        first_selected = accumulate(self.num_selected, initial=0)
        return [
            self._row(*place) for place in zip(range(len(self.row_lengths)), row_starts, first_selected, strict=False)
        ]

    def _row(self, place: int, start: int, first_selected: int) -> "PackedBatch":
        row = slice(start, start + self.row_lengths[place])
        selected = slice(first_selected, first_selected + self.num_selected[place])
        return PackedBatch(
            input_ids=self.input_ids[:, row],
            position_ids=self.position_ids[:, row],
            row_lengths=self.row_lengths[place : place + 1],
            row_indices=self.row_indices[place : place + 1],
            num_selected=self.num_selected[place : place + 1],
            selected_positions=self.selected_positions[selected] - start,
            target_ids=self.target_ids[selected],
        )


@dataclass(frozen=True, slots=True)
class RowLengths:
    """Of the rows in a line; as an object of one class, they are no part of a block that is compiled."""

    lengths: tuple[int, ...]
    sequence: SequenceRanks = ALL_TOKENS  # the ranks that have the line's tokens between them


class PaddedRows(NamedTuple):
    """Per-token numbers of many rows, left-aligned."""

    values: Tensor  # [batch, time], zero where the mask is False
    mask: Tensor  # [batch, time] bool, True counts


def pack(rows: Sequence[TokenRow], *, max_tokens: int) -> list[PackedBatch]:
    """Return micro-batches of at most ``max_tokens`` tokens; a longer row gets one of its own."""
    return [lay_out(rows, indices) for indices in bins([row.length for row in rows], max_tokens=max_tokens)]


def bins(lengths: Sequence[int], *, max_tokens: int) -> list[list[int]]:
    """Return the rows of each micro-batch, by number.

    First-fit decreasing: at most 11/9 of the smallest possible number of micro-batches, and the same for the same rows.
    """
    found: list[list[int]] = []
    room: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        length = lengths[index]
        place = next((place for place, free in enumerate(room) if length <= free), None)
        if place is None:
            found.append([index])
            room.append(max_tokens - length)
        else:
            found[place].append(index)
            room[place] -= length
    return found


def lay_out(rows: Sequence[TokenRow], indices: Sequence[int]) -> PackedBatch:
    """Return the micro-batch of these rows."""
    chosen = [rows[index] for index in indices]
    token_ids = torch.cat([torch.as_tensor(row.token_ids, dtype=torch.long) for row in chosen])
    lengths, num_selected = [row.length for row in chosen], [row.num_selected for row in chosen]
    # A row's last token predicts nothing that is known.
    firsts = [end - num - 1 for end, num in zip(accumulate(lengths), num_selected, strict=True)]
    positions = torch.from_numpy(_ranges(firsts, num_selected))
    return PackedBatch(
        input_ids=token_ids[None],
        position_ids=torch.from_numpy(_ranges([0] * len(lengths), lengths))[None],
        row_lengths=tuple(lengths),
        row_indices=tuple(indices),
        num_selected=tuple(num_selected),
        selected_positions=positions,
        target_ids=token_ids[positions + 1],
    )


def _ranges(firsts: Sequence[int], counts: Sequence[int]) -> NDArray[numpy.int64]:
    """So many numbers from each first on, end to end."""
    before = numpy.cumsum([0, *counts])
    found: NDArray[numpy.int64] = numpy.arange(before[-1]) + numpy.repeat(numpy.array(firsts) - before[:-1], counts)
    return found


def unpack(batches: Sequence[PackedBatch], results: Sequence[Tensor]) -> list[Tensor]:
    """Return the flat results [n] of all micro-batches as one tensor per row, in the order in which `pack` got them."""
    by_row: dict[int, Tensor] = {}
    for batch, result in zip(batches, results, strict=True):
        by_row.update(zip(batch.row_indices, torch.split(result, list(batch.num_selected)), strict=True))
    return [by_row[index] for index in range(len(by_row))]


def pad_rows(rows: Sequence[Tensor]) -> PaddedRows:
    """Return rows of different lengths as one [batch, time] tensor and the mask of what is real in it."""
    values = torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True)
    lengths = torch.tensor([row.shape[0] for row in rows], device=values.device)
    return PaddedRows(values, torch.arange(values.shape[1], device=values.device) < lengths[:, None])
