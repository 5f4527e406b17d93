"""Rows that stand alone: families whose caches cannot be put together, or that have none that is right."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from services.generation.transformers_engine.decoders.layouts.forward_pass import ForwardPass


@dataclass(eq=False, slots=True)
class _Row:
    """Its prefix runs with the first step."""

    prefix: Sequence[int] | None
    cache: Any = None  # or, without one, the tokens so far [1, tokens]
    num_cached: int = 0


class SeparateRows:
    """Each row has a forward pass of its own, without padding and mask, over one token or over all."""

    def __init__(self, forward: ForwardPass, *, has_cache: bool) -> None:
        self._forward = forward
        self._has_cache = has_cache
        self._rows: list[_Row] = []
        self.num_prefilled = 0

    def exchange(self, ended: Sequence[int], prefixes: Sequence[Sequence[int]]) -> list[int]:
        """Rows that stay keep their order; new ones follow, and are prefilled in the next step."""
        leaving = set(ended)
        order = [row for row in range(len(self._rows) + len(prefixes)) if row not in leaving]
        everyone = [*self._rows, *(_Row(prefix) for prefix in prefixes)]
        self._rows = [everyone[row] for row in order]
        self.num_prefilled += sum(len(prefix) - 1 for prefix in prefixes)
        return order

    def step(self, tokens: Tensor) -> Tensor:
        """Decode one token of each row; new ones run by their whole prefix."""
        run = self._run if self._has_cache else self._run_whole
        return torch.cat([run(row, token[None]) for row, token in zip(self._rows, torch.split(tokens, 1), strict=True)])

    def forget_prefixes(self) -> None:
        """Nothing is shared here."""

    def _run(self, row: _Row, token: Tensor) -> Tensor:
        inputs = self._inputs(row, token)
        columns = torch.arange(row.num_cached, row.num_cached + inputs.shape[1], device=inputs.device)
        logits, row.cache = self._forward(inputs, cache=row.cache, positions=columns[None])
        row.num_cached += inputs.shape[1]
        return logits

    def _run_whole(self, row: _Row, token: Tensor) -> Tensor:
        inputs = self._inputs(row, token)
        row.cache = inputs if row.cache is None else torch.cat([row.cache, inputs], dim=1)
        logits, _ = self._forward(row.cache, use_cache=False)
        return logits

    def _inputs(self, row: _Row, token: Tensor) -> Tensor:
        if row.prefix is None:
            return token
        prefix, row.prefix = row.prefix, None
        return torch.tensor([prefix], device=token.device)
