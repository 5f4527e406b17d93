"""Prompts, and the endless, seeded order in which they are requested."""

import random
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

NUM_CACHED_EPOCHS = 8
"""Whose rollouts may be in flight at once; with a million prompts 8 MB each."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """One data row, ready to be sampled from."""

    index: int  # of the row in its files, laid end to end, those of all evaluation sets; rows that are too long count
    text: str
    token_ids: "array[int]"
    data_source: str
    ground_truth: str
    extra_info: str  # JSON object
    solution: "array[int] | None" = None  # worked, with the token that ends it; of evaluation prompts
    group: str = ""  # of evaluation prompts; empty: of none
    set_name: str = ""  # of those of a named set


@dataclass(frozen=True, slots=True)
class PromptOrder:
    """Which prompt is the n-th rollout's: epochs of a seeded permutation, each prompt sampled in a row."""

    num_prompts: int
    samples_per_prompt: int
    seed: int
    shuffle: bool

    def at(self, ordinal: int) -> tuple[int, str]:
        """(index of the prompt, rollout id) of the rollout that is started as number `ordinal`, from 0."""
        position, sample = divmod(ordinal, self.samples_per_prompt)
        epoch, offset = divmod(position, self.num_prompts)
        index = self._permutation(epoch)[offset]
        return index, f"{epoch}-{index}-{sample}"

    def ordinal(self, rollout_id: str) -> int | None:
        """The number whose rollout has this id; None for an id that is not of this order."""
        parts = rollout_id.split("-")
        if len(parts) != 3 or not all(part.isdecimal() for part in parts):
            return None
        epoch, index, sample = map(int, parts)
        if index >= self.num_prompts or sample >= self.samples_per_prompt:
            return None
        offset = _places(self.num_prompts, self.seed, epoch)[index] if self.shuffle else index
        return (epoch * self.num_prompts + offset) * self.samples_per_prompt + sample

    def _permutation(self, epoch: int) -> Sequence[int]:
        return _permutation(self.num_prompts, self.seed, epoch) if self.shuffle else range(self.num_prompts)


@lru_cache(maxsize=NUM_CACHED_EPOCHS)
def _permutation(length: int, seed: int, epoch: int) -> "array[int]":
    return array("i", random.Random(f"{seed}/{epoch}").sample(range(length), length))


@lru_cache(maxsize=NUM_CACHED_EPOCHS)
def _places(length: int, seed: int, epoch: int) -> "array[int]":
    """Where each prompt stands in the permutation: every record of the inbox is looked up by its id."""
    places = array("i", bytes(4 * length))
    for place, index in enumerate(_permutation(length, seed, epoch)):
        places[index] = place
    return places
