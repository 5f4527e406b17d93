"""What the decode loop needs of a model: the rows' KV caches, and the distribution of the next token."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol

import torch

NUM_PROBE_ROWS = 4  # that run at once beside the rows of the slots

Switch = Callable[[], object]
"""Brings prepared weights into use and leaves the KV caches, between two steps and in their thread.

It gives back the weights that were in use, which take long to be freed. ValueError: the decoder computes wrongly.
"""

Free = Callable[[Collection[str]], None]
"""Takes the names of tensors that are read no more, so that the memory in which they came can be given back."""


def keep(names: Collection[str]) -> None:
    """Frees nothing: the tensors are somebody else's, too."""


class Decoder(Protocol):
    """A model with the KV cache of the rows that run; rows are numbered from 0 without gaps."""

    @property
    def vocabulary_size(self) -> int:
        """Token ids are below it."""
        ...

    @property
    def num_prefilled(self) -> int:
        """Tokens that prefill has computed; those that a row shares with another count once."""
        ...

    def prepare(self, tensors: Mapping[str, torch.Tensor], free: Free = keep) -> Switch:
        """What takes long, in any thread, while steps go on with the weights in use. ValueError: they do not fit.

        `free` is given the names of what has been copied, a layer at a time.
        """
        ...

    def exchange(self, ended: Sequence[int], prefixes: Sequence[Sequence[int]]) -> list[int]:
        """Drop the rows `ended` and add one per prefix: prefill, with all of its tokens but the last.

        Returns for each row its index among the old rows followed by the added ones: rows may change places.
        """
        ...

    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        """Append `tokens` [rows] to the rows; logits [rows, vocabulary] of the tokens that follow."""
        ...

    def reset(self) -> None:
        """Forget all rows and everything they left behind, and free its memory."""
        ...

    def drop_weights(self) -> None:
        """Free them: nothing is decoded before the next `Switch`."""
        ...


def assigned_places(num_before: int, ended: Sequence[int], new: Sequence[int]) -> list[int]:
    """Which row, by its index among the old ones followed by the new, stands in each place after an exchange.

    The new ones take the places of ended rows in the order given, and the last rows those that remain; all others stay.
    """
    gaps = sorted(ended)
    order = [*range(num_before), *new[len(gaps) :]]
    for place, row in zip(gaps, new, strict=False):
        order[place] = row
    for place in reversed(gaps[len(new) :]):
        last = order.pop()
        if place < len(order):
            order[place] = last
    return order
