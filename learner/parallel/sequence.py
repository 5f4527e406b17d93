"""Ranks that share the tokens of each pass (Ulysses): everything but attention works on a rank's own tokens.

    its tokens, all heads  -- all-to-all ->  all tokens, its heads  -- attention, all-to-all ->  its tokens, all heads

An exchange's gradient is the exchange back. What is joined of all tokens is the same on every rank, and so is what is
computed of it: a rank's own part of the gradient is the whole one, and nothing is added up.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.distributed import ProcessGroup, all_gather
from torch.distributed._functional_collectives import all_to_all_single, wait_tensor


@dataclass(frozen=True, slots=True)
class SequenceRanks:
    """Those of one pass; a rank that has all tokens of its passes is alone."""

    rank: int = 0  # among them
    size: int = 1
    group: ProcessGroup | None = None

    def to_heads(self, *of_tokens: Tensor) -> tuple[Tensor, ...]:
        """Each [1, heads, tokens of a rank, width] as [1, heads of this rank, tokens, width], by one exchange."""
        if self.size == 1:
            return of_tokens
        parts = [one.view(self.size, -1, *one.shape[2:]) for one in of_tokens]
        received = self._exchanged(torch.cat([part.flatten(1) for part in parts], dim=1))
        pieces = torch.split(received, [part[0].numel() for part in parts], dim=1)
        return tuple(
            piece.view(part.shape).transpose(0, 1).flatten(1, 2)[None]
            for piece, part in zip(pieces, parts, strict=True)
        )

    def to_tokens(self, of_heads: Tensor) -> Tensor:
        """[1, tokens, heads of a rank, width] as [1, tokens of this rank, heads, width]."""
        if self.size == 1:
            return of_heads
        received = self._exchanged(of_heads.reshape(self.size, -1, *of_heads.shape[2:]))
        return received.transpose(0, 1).flatten(1, 2)[None]

    def own_heads(self, of_heads: Tensor) -> Tensor:
        """Of numbers of all heads [heads, ...], those of this rank."""
        return of_heads.chunk(self.size)[self.rank]

    def joined(self, own: Tensor, lengths: Sequence[int]) -> Tensor:
        """What the ranks have found [length of the rank, ...], one after the other."""
        assert len(own) == lengths[self.rank], "a rank gives what the others expect of it"
        if self.size == 1 or not any(lengths):
            return own
        found: Tensor = _Joined.apply(own, self, tuple(lengths))  # type: ignore[no-untyped-call]
        return found

    def _exchanged(self, parts: Tensor) -> Tensor:
        """[ranks, ...]: each rank is sent its part, and these are the parts that it was sent."""
        assert self.group is not None, "several ranks are a group"
        received: Tensor = wait_tensor(all_to_all_single(parts.contiguous(), None, None, self.group))  # type: ignore[no-untyped-call]
        return received


ALL_TOKENS = SequenceRanks()


class _Joined(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own: Tensor, ranks: SequenceRanks, lengths: tuple[int, ...]) -> Tensor:
        begin = sum(lengths[: ranks.rank])
        ctx.own = slice(begin, begin + len(own))
        padded = own.new_zeros(max(lengths), *own.shape[1:])
        padded[: len(own)] = own
        parts = [torch.empty_like(padded) for _ in lengths]
        all_gather(parts, padded, group=ranks.group)
        return torch.cat([part[:length] for part, length in zip(parts, lengths, strict=True)])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_joined: Tensor) -> tuple[Tensor, None, None]:
        return of_joined[ctx.own], None, None
