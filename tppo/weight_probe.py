"""The probe of a weight update: rows of a run, and what the learner says of them with the weights that it sends.

A generator decodes the same tokens with what it has loaded and compares. The rows are functions of the run's identity,
so that they stay the same from update to update: what an engine kept of earlier weights, under the same tokens, shows.
"""

import random
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

NUM_DECODED = 4  # tokens of a row at most: the later ones are decoded on what the first ones left in the KV cache
SHORT_LENGTHS = (8, 24)
LONG_LENGTH = range(144, 8193)  # of the longest row; vLLM shares prefixes in blocks of up to 128 tokens
SHARE_OF_STEP = 0.01  # of a step's tokens that the longest row has, so that its cost is a small part of the step's


class ProbeRow(NamedTuple):
    """Response tokens, which are compared and which an engine decodes, and the prompt tokens in front of them."""

    prompt_tokens: tuple[int, ...]
    response_tokens: tuple[int, ...]

    @classmethod
    def of(cls, tokens: Sequence[int], *, num_compared: int) -> "ProbeRow":
        """A row whose last tokens are the response; at least one remains in front of them."""
        start = max(1, len(tokens) - num_compared)
        return cls(tuple(tokens[:start]), tuple(tokens[start:]))

    @property
    def tokens(self) -> tuple[int, ...]:
        """The whole row."""
        return self.prompt_tokens + self.response_tokens

    @property
    def start(self) -> int:
        """Place of the first response token."""
        return len(self.prompt_tokens)


@dataclass(frozen=True, slots=True)
class WeightProbe:
    """Travels with the weights. ValueError: the parts do not fit each other."""

    rows: tuple[ProbeRow, ...]
    logprobs: "tuple[array[float], ...]"  # the learner's, of each row's response tokens
    temperature: float  # of sampling, under which they are

    def __post_init__(self) -> None:
        lengths = [len(row.response_tokens) for row in self.rows]
        if not lengths or lengths != [len(of_row) for of_row in self.logprobs] or 0 in lengths:
            raise ValueError(
                f"a probe of rows with {lengths} response tokens has {[len(of_row) for of_row in self.logprobs]} "
                "log-probs; expected at least one row, and one number for each token"
            )


@lru_cache(maxsize=4)
def update_rows(identity: str, vocabulary_size: int, *, capacity: int, step_tokens: int) -> tuple[ProbeRow, ...]:
    """The rows of a run, short and long; `capacity` bounds their length, `step_tokens` is how many a step trains."""
    longest = min(max(int(step_tokens * SHARE_OF_STEP), LONG_LENGTH.start), LONG_LENGTH.stop - 1)
    numbers = random.Random(identity)
    lengths = [min(length, max(2, capacity)) for length in (*SHORT_LENGTHS, longest)]
    rows = [[numbers.randrange(vocabulary_size) for _ in range(length)] for length in lengths]
    return tuple(ProbeRow.of(row, num_compared=min(NUM_DECODED, len(row) // 2)) for row in rows)
