"""What one rank computes of a micro-batch whose tokens several ranks have between them.

The line of rows is cut into pieces of equal length, wherever that cuts a row; a last row of a few tokens, of which
nothing is wanted, fills it up. Positions and targets are those of the whole line, so a token that is predicted across a
cut is known before it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from learner.models.passes.packing import PackedBatch, RowLengths
from learner.parallel.sequence import ALL_TOKENS, SequenceRanks


@dataclass(frozen=True, slots=True)
class Part:
    """One rank's; everything, where it has the micro-batch alone."""

    whole: PackedBatch
    own: PackedBatch  # its tokens, and those that are selected among them; of rows it has the whole line's
    num_selected: tuple[int, ...]  # tokens, of each rank
    sequence: SequenceRanks = ALL_TOKENS

    @classmethod
    def of(cls, whole: PackedBatch, sequence: SequenceRanks = ALL_TOKENS) -> Self:
        """Cut by arithmetic on the host, where the micro-batch still is."""
        if sequence.size == 1:
            return cls(whole, whole, (len(whole.target_ids),))
        length = -(-whole.input_ids.shape[1] // sequence.size)
        filled, begin = _filled(whole, length * sequence.size), sequence.rank * length
        pieces = whole.selected_positions // length
        is_own = pieces == sequence.rank
        own = replace(
            filled,
            input_ids=filled.input_ids[:, begin : begin + length],
            position_ids=filled.position_ids[:, begin : begin + length],
            selected_positions=whole.selected_positions[is_own] - begin,
            target_ids=whole.target_ids[is_own],
        )
        return cls(whole, own, tuple(torch.bincount(pieces, minlength=sequence.size).tolist()), sequence)

    def to(self, device: torch.device) -> Self:
        """With what is computed on ``device``."""
        return replace(self, own=self.own.to(device))

    @property
    def rows(self) -> RowLengths:
        """What attention needs to know."""
        return RowLengths(self.own.row_lengths, self.sequence)

    def of_selected(self, found: Tensor) -> Tensor:
        """Of all selected tokens [n, ...], from this rank's."""
        return self.sequence.joined(found, self.num_selected)

    def of_tokens(self, found: Tensor) -> Tensor:
        """Of all tokens [total, ...], from this rank's."""
        if self.sequence.size == 1:
            return found
        lengths: Sequence[int] = [self.own.input_ids.shape[1]] * self.sequence.size
        return self.sequence.joined(found, lengths)[: self.whole.input_ids.shape[1]]


def _filled(batch: PackedBatch, length: int) -> PackedBatch:
    """Of so many tokens: with a last row of which nothing is selected."""
    missing = length - batch.input_ids.shape[1]
    if not missing:
        return batch
    positions = torch.arange(missing, device=batch.position_ids.device)[None]
    return replace(
        batch,
        input_ids=torch.cat([batch.input_ids, batch.input_ids[:, :1].expand(1, missing)], dim=1),
        position_ids=torch.cat([batch.position_ids, positions], dim=1),
        row_lengths=(*batch.row_lengths, missing),
    )
