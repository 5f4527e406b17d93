"""How well a prompt is answered by k of its n sampled responses, and what a set's prompts say of that.

Both estimators are exact means over all ways to draw k of the n responses without replacement, and so unbiased
(Chen et al. 2021, "Evaluating Large Language Models Trained on Code", for pass@k). They need the standard library only.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

RIGHT = 1.0
"""Responses with this score state the right answer, however they spell it: they are one side of a vote."""


@dataclass(frozen=True, slots=True)
class Vote:
    """A scored response."""

    answer: str  # that it states; empty: it does not vote
    score: float


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over prompts."""

    mean: float
    stderr: float
    """Standard error of the mean, which holds the spread of the prompts and that of their samples; 0 for one prompt."""
    num_prompts: int


def estimate(values: Sequence[float]) -> Estimate | None:
    """Of one number for each prompt; None without any."""
    if not values:
        return None
    mean = math.fsum(values) / len(values)
    variance = math.fsum((value - mean) ** 2 for value in values) / max(1, len(values) - 1)
    return Estimate(mean, math.sqrt(variance / len(values)), len(values))


def best_at_k(scores: Sequence[float], k: int) -> float:
    """The best score of k responses, on average; with scores of 0 and 1 this is pass@k."""
    _require_enough(len(scores), k)
    num_draws = math.comb(len(scores), k)
    # The score of rank r is the best of a draw when the other k - 1 are among the r below it.
    return math.fsum(score * (math.comb(rank, k - 1) / num_draws) for rank, score in enumerate(sorted(scores)))


def majority_at_k(votes: Sequence[Vote], k: int) -> float:
    """The score of the answer that most of k responses state, on average; answers that are level share the draw.

    Responses without an answer do not vote; where none of the k has one, their mean score counts.
    """
    _require_enough(len(votes), k)
    sides, silent = _sides(votes)
    if k == len(votes):
        return _of_all(sides, silent)
    num_draws = math.comb(len(votes), k)
    found = _mean(silent) * (math.comb(len(silent), k) / num_draws) if silent else 0.0
    for name, scores in sides.items():
        if any(scores):  # nothing is added by an answer whose score is 0
            others = [len(other) for other_name, other in sides.items() if other_name != name]
            found += _mean(scores) * (_wins(len(scores), others, len(silent), k) / num_draws)
    return found


def ks_up_to(num_samples: int) -> list[int]:
    """1, 2, 4 ... and the number itself."""
    powers = [2**exponent for exponent in range(num_samples.bit_length()) if 2**exponent < num_samples]
    return [*powers, num_samples]


def _require_enough(num: int, k: int) -> None:
    if not 1 <= k <= num:
        raise ValueError(f"k = {k} of {num} responses; expected 1 to {num}")


def _mean(numbers: Sequence[float]) -> float:
    return math.fsum(numbers) / len(numbers)


def _sides(votes: Sequence[Vote]) -> tuple[dict[str, list[float]], list[float]]:
    """The scores by answer, and those of responses without one."""
    sides: dict[str, list[float]] = defaultdict(list)
    silent: list[float] = []
    right = next((vote.answer for vote in votes if vote.answer and vote.score == RIGHT), "")
    for vote in votes:
        if not vote.answer:
            silent.append(vote.score)
        else:
            sides[right if vote.score == RIGHT else vote.answer].append(vote.score)
    return sides, silent


def _of_all(sides: dict[str, list[float]], silent: Sequence[float]) -> float:
    """The one draw of all responses."""
    if not sides:
        return _mean(silent)
    most = max(map(len, sides.values()))
    return _mean([_mean(scores) for scores in sides.values() if len(scores) == most])


def _wins(own: int, others: Sequence[int], num_silent: int, k: int) -> float:
    """Draws of k in which a side of `own` responses has the most votes; one that it shares with t others is 1/(t+1)."""
    return math.fsum(
        math.comb(own, size) * _draws_of_the_others(others, num_silent, size, k - size)
        for size in range(1, min(own, k) + 1)
    )


def _draws_of_the_others(others: Sequence[int], num_silent: int, size: int, num_drawn: int) -> float:
    """Ways to draw so many responses of the others, of no side more than `size`, each shared among those level."""
    free = num_silent + sum(other for other in others if other < size)
    # By (how many are drawn, how many sides are level), the number of ways.
    ways = {(drawn, 0): math.comb(free, drawn) for drawn in range(min(free, num_drawn) + 1)}
    for other in others:
        if other >= size:
            ways = _with_side(ways, other, size, num_drawn)
    return math.fsum(count / (level + 1) for (drawn, level), count in ways.items() if drawn == num_drawn)


def _with_side(ways: dict[tuple[int, int], int], other: int, size: int, num_drawn: int) -> dict[tuple[int, int], int]:
    """The ways with one more side, which may give up to `size` responses."""
    found: dict[tuple[int, int], int] = defaultdict(int)
    for (drawn, level), count in ways.items():
        for more in range(min(size, num_drawn - drawn) + 1):
            found[drawn + more, level + (more == size)] += count * math.comb(other, more)
    return found
