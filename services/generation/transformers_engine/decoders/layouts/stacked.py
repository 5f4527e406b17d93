"""Rows of families whose caches are of a kind of their own: states of a fixed size, stacked row on row.

New rows run by their whole prefix with the first step, those of one length together, and their states are put below the
others'. Whether all that a cache holds are such states is not known here: the probe finds out.
"""

import copy
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from services.generation.transformers_engine.decoders.layouts.forward_pass import ForwardPass


class StackedRows:
    """A decode step is one forward pass, without mask and positions."""

    def __init__(self, forward: ForwardPass) -> None:
        self._forward = forward
        self._cache: Any = None  # of the rows that have run
        self._num_run = 0
        self._waiting: list[Sequence[int]] = []  # prefixes of the rows behind them
        self.num_prefilled = 0

    def exchange(self, ended: Sequence[int], prefixes: Sequence[Sequence[int]]) -> list[int]:
        """Rows that stay keep their order; new ones follow, and are prefilled in the next step."""
        leaving = set(ended)
        waiting = [*self._waiting, *prefixes]
        order = [row for row in range(self._num_run + len(waiting)) if row not in leaving]
        kept = [row for row in order if row < self._num_run]
        if len(kept) < self._num_run:
            self._cache = _chosen(self._cache, kept)
        self._waiting = [waiting[row - self._num_run] for row in order[len(kept) :]]
        self._num_run = len(kept)
        self.num_prefilled += sum(len(prefix) - 1 for prefix in prefixes)
        return order

    def step(self, tokens: Tensor) -> Tensor:
        """Decode one token of each row; new ones run by their whole prefix."""
        parts = [self._forward(tokens[: self._num_run, None], cache=self._cache)] if self._num_run else []
        by_length = sorted(range(len(self._waiting)), key=lambda row: len(self._waiting[row]))
        for _, rows in groupby(by_length, key=lambda row: len(self._waiting[row])):
            prefixes = torch.tensor([list(self._waiting[row]) for row in rows], device=tokens.device)
            parts.append(self._forward(prefixes))
        logits = torch.cat([part for part, _ in parts])
        self._cache = _stacked([cache for _, cache in parts])
        if self._waiting:
            order = [*range(self._num_run), *(self._num_run + place for place in _inverse(by_length))]
            logits, self._cache = logits[order], _chosen(self._cache, order)
        self._num_run, self._waiting = len(tokens), []
        return logits

    def forget_prefixes(self) -> None:
        """Nothing is shared here."""


def _inverse(order: Sequence[int]) -> list[int]:
    return sorted(range(len(order)), key=lambda place: order[place])


def _stacked(caches: Sequence[Any]) -> Any:
    return caches[0] if len(caches) == 1 else _mapped(torch.cat, caches)


def _chosen(cache: Any, rows: Sequence[int]) -> Any:
    return _mapped(lambda states: states[0][list(rows)], [cache])


def _mapped(function: Callable[[Any], Tensor], caches: Sequence[Any]) -> Any:
    """A cache whose states are the function's of those in the same place of all caches."""
    if isinstance(caches[0], dict | list | tuple):
        return _mapped_within(function, caches)
    made = copy.copy(caches[0])
    vars(made).update(_mapped_within(function, [vars(cache) for cache in caches]))
    return made


def _mapped_within(function: Callable[[Any], Tensor], parts: Sequence[Any]) -> Any:
    first = parts[0]
    if isinstance(first, Tensor) and first.is_floating_point():  # others count what no row needs
        return function(parts)
    if isinstance(first, dict):
        return {key: _mapped_within(function, [part[key] for part in parts]) for key in first}
    if isinstance(first, list | tuple):
        return type(first)(_mapped_within(function, inner) for inner in zip(*parts, strict=True))
    return first
