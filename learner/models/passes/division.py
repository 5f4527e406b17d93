"""A mini-batch's rows as passes through a network, divided among the ranks of a group.

Rows are dealt to the group's shares by their tokens, and each packs its own; the ranks of a share, which divide the
tokens of its passes, make the same ones. A network whose weights are sharded gathers them in each pass, which takes all
ranks: so every rank makes the same number of passes, and one that has none left makes an empty one, which selects no
token.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor

from learner.models.passes.packing import PackedBatch, TokenRow, bins, lay_out
from learner.parallel.group import Group


@dataclass(frozen=True, slots=True)
class Division:
    """This rank's passes, and how all ranks' results become those of the rows."""

    batches: list[PackedBatch]  # its own; as many on every rank
    group: Group
    num_filled: tuple[int, ...]  # passes with a row, of each share
    shares: list[list[int]]  # rows of each, in the order of its passes
    num_selected: tuple[int, ...]  # of each row

    def of_rows(self, results: Sequence[Tensor]) -> list[Tensor]:
        """Of every row [its selected tokens, ...], from those of this rank's passes [n, ...]; on the host."""
        return self._by_row(results, self.num_selected)

    def numbers_of_rows(self, results: Sequence[Tensor]) -> Tensor:
        """[rows, ...], from those of this rank's passes [rows of the pass, ...]; on the host."""
        return torch.cat(self._by_row(results, [1] * len(self.num_selected)))

    def numbers_of_passes(self, results: Sequence[Tensor]) -> Tensor:
        """[passes of all ranks, ...], from one of each of this rank's; those of empty passes are left out."""
        own = torch.stack(list(results))[: self.num_filled[self.group.share]]
        return torch.cat(self.group.gathered_of_shares(own, self.num_filled))

    def _by_row(self, results: Sequence[Tensor], lengths: Sequence[int]) -> list[Tensor]:
        of_shares = [[lengths[row] for row in share] for share in self.shares]
        own = torch.cat([one.detach().cpu() for one in results])
        gathered = self.group.gathered_of_shares(own, [*map(sum, of_shares)])
        pieces = chain.from_iterable(map(torch.split, gathered, of_shares))
        by_row = dict(zip(chain.from_iterable(self.shares), pieces, strict=True))
        return [by_row[row] for row in range(len(by_row))]


def divided(rows: Sequence[TokenRow], *, max_tokens: int, group: Group) -> Division:
    """The rows, at least one, in passes of at most `max_tokens` tokens; a longer row has one of its own."""
    lengths = [row.length for row in rows]
    packed = [
        [[share[place] for place in places] for places in bins([lengths[row] for row in share], max_tokens=max_tokens)]
        for share in dealt(lengths, group.num_shares)
    ]
    own = [lay_out(rows, indices) for indices in packed[group.share]]
    empty = [_selecting_nothing(rows[0])] * (max(map(len, packed)) - len(own))
    return Division(
        batches=[*own, *empty],
        group=group,
        num_filled=tuple(map(len, packed)),
        shares=[[*chain.from_iterable(of_share)] for of_share in packed],
        num_selected=tuple(row.num_selected for row in rows),
    )


def dealt(lengths: Sequence[int], num_shares: int) -> list[list[int]]:
    """Each share's rows, by number: the longest row left goes to the share with the fewest tokens so far.

    No share has more than 4/3 of what the best partition gives its fullest one (longest processing time first).
    """
    shares: list[list[int]] = [[] for _ in range(num_shares)]
    tokens = [0] * num_shares
    for row in sorted(range(len(lengths)), key=lambda row: (-lengths[row], row)):
        share = min(range(num_shares), key=lambda share: (tokens[share], share))
        shares[share].append(row)
        tokens[share] += lengths[row]
    return [sorted(share) for share in shares]


def _selecting_nothing(row: TokenRow) -> PackedBatch:
    """One token, of which no result is wanted; it stands for no row."""
    nothing = torch.empty(0, dtype=torch.long)
    first = torch.as_tensor(row.token_ids[:1], dtype=torch.long)
    return PackedBatch(first[None], torch.zeros_like(first)[None], (1,), (), (), nothing, nothing)
