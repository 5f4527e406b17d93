"""Sampling whose result does not depend on the neighbours: each token has a random number of its own.

The uniform number of a token is a hash of the request's seed and of the token's place in prompt and response, and it is
looked up in the cumulative distribution. So a row draws the same tokens alone, in company, or in another slot, as long
as the logits agree to within rounding.

The distribution of a large vocabulary is looked up in two steps, the token's block and then its place in the block, so
that sums in double precision run over blocks and over one block of each row, and never over the whole vocabulary.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

# splitmix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014)
GOLDEN_GAMMA = np.uint64(0x9E3779B97F4A7C15)
MULTIPLIERS = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
SHIFTS = np.uint64(30), np.uint64(27), np.uint64(31)
BLOCK = 512  # tokens: near the square root of the vocabularies for which it matters
AHEAD = 8  # tokens of a row whose numbers are computed at once: as fast as those of one

Words = np.ndarray[Any, np.dtype[np.uint64]]


def mixed(words: Words) -> Words:
    """splitmix64's finalizer."""
    words = (words ^ (words >> SHIFTS[0])) * MULTIPLIERS[0]
    words = (words ^ (words >> SHIFTS[1])) * MULTIPLIERS[1]
    return words ^ (words >> SHIFTS[2])


class Sampler:
    """Draws the next tokens of a fixed set of rows, call after call."""

    def __init__(
        self, *, seeds: Sequence[int], positions: Sequence[int], temperatures: Sequence[float], device: torch.device
    ) -> None:
        """`positions` counts for each row the tokens in front of the one that is drawn first."""
        streams = mixed(np.array(seeds, dtype=np.uint64))
        self._counters = streams + np.array(positions, dtype=np.uint64) * GOLDEN_GAMMA
        self._device = device
        self._ahead: Iterator[Tensor] = iter(())
        self._is_greedy = self._temperatures = None
        if any(temperature == 0 for temperature in temperatures):
            self._is_greedy = torch.tensor([temperature == 0 for temperature in temperatures], device=device)
        if any(temperature not in (0, 1) for temperature in temperatures):
            divisors = [temperature or 1.0 for temperature in temperatures]
            self._temperatures = torch.tensor(divisors, device=device).unsqueeze(-1)

    def sample(self, logits: Tensor, forced: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Tokens [rows] and their log-probabilities [rows] under the temperature, which counts as 1 when it is 0.

        `forced` [rows] takes the place of what is drawn, where it is not -1.
        """
        logits = logits.float()
        if self._temperatures is not None:
            logits = logits / self._temperatures
        largest = logits.amax(dim=-1, keepdim=True)
        weights = (logits - largest).exp_()
        tokens, totals = drawn(weights, self._uniforms())
        if self._is_greedy is not None:
            tokens = torch.where(self._is_greedy[:, None], logits.argmax(dim=-1, keepdim=True), tokens)
        if forced is not None:
            tokens = torch.where(forced[:, None] >= 0, forced[:, None], tokens)
        logprobs = (logits.gather(-1, tokens) - largest).double() - totals.log()
        return tokens.squeeze(-1), logprobs.squeeze(-1).float()

    def _uniforms(self) -> Tensor:
        """[rows, 1] in [0, 1), the top 53 bits of each hash; the counters move on by one token."""
        numbers = next(self._ahead, None)
        if numbers is None:
            tokens = np.arange(AHEAD, dtype=np.uint64)[:, None, None] * GOLDEN_GAMMA
            bits = mixed(self._counters[:, None] + tokens) >> np.uint64(11)
            self._counters += np.uint64(AHEAD * int(GOLDEN_GAMMA) % 2**64)
            self._ahead = iter(torch.from_numpy(bits * 2.0**-53).to(self._device).unbind())
            numbers = next(self._ahead)
        return numbers


def drawn(weights: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens [rows, 1] with probabilities in proportion to `weights` [rows, vocabulary], and the weights' totals.

    `uniforms` [rows, 1] are in [0, 1), in double precision.
    """
    size = weights.shape[-1]
    if size <= BLOCK:
        cumulative = weights.cumsum(dim=-1, dtype=torch.float64)
        totals = cumulative[:, -1:].contiguous()
        # Below 1, a number times the total is below it after rounding too, so the place found has a weight.
        tokens = torch.searchsorted(cumulative, uniforms * totals, right=True)
        return tokens.clamp_(max=size - 1), totals  # sums that are not numbers are past the end
    whole = size - size % BLOCK
    sums = weights[:, :whole].view(len(weights), -1, BLOCK).sum(dim=-1)
    if whole < size:
        sums = torch.cat([sums, weights[:, whole:].sum(dim=-1, keepdim=True)], dim=-1)
    blocks, rest, totals = _found(sums, uniforms)
    places = blocks * BLOCK + torch.arange(BLOCK, device=weights.device)
    inside = weights.gather(-1, places.clamp(max=size - 1)).masked_fill_(places >= size, 0)
    tokens, _, _ = _found(inside, rest)
    return (blocks * BLOCK + tokens).clamp_(max=size - 1), totals


def _found(weights: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Where each uniform number falls in the cumulative sum, how far into its entry, in [0, 1], and the sum's total."""
    cumulative = weights.cumsum(dim=-1, dtype=torch.float64)
    totals = cumulative[:, -1:].contiguous()
    thresholds = uniforms * totals
    last = torch.searchsorted(cumulative, totals)  # with a weight; rounding must not lead beyond it
    places = torch.searchsorted(cumulative, thresholds, right=True)
    places = torch.minimum(places, last).clamp_(max=weights.shape[-1] - 1)  # sums that are not numbers are past the end
    weight = weights.gather(-1, places).double()
    before = cumulative.gather(-1, places) - weight
    return places, ((thresholds - before) / weight).clamp_(0, 1), totals
