"""best@k and maj@k against every way to draw k of the responses, and by hand."""

import math
import random
from collections import defaultdict
from itertools import combinations

import pytest

from tppo.scoring.pass_at_k import Vote, best_at_k, estimate, ks_up_to, majority_at_k


def test_the_best_of_two_is_right_unless_both_are_wrong() -> None:
    # One right response of four: 3 of the 6 pairs hold it.
    assert best_at_k([0.0, 1.0, 0.0, 0.0], 1) == 0.25
    assert best_at_k([0.0, 1.0, 0.0, 0.0], 2) == pytest.approx(0.5)
    assert best_at_k([0.0, 1.0, 0.0, 0.0], 4) == 1.0


def test_the_best_of_all_is_the_highest_score_whatever_scores_are() -> None:
    assert best_at_k([-1.0, 0.5, 0.25], 3) == pytest.approx(0.5)
    # The pairs' best scores are 0.5, 0.25 and 0.5.
    assert best_at_k([-1.0, 0.5, 0.25], 2) == pytest.approx(1.25 / 3)


def test_right_answers_vote_together_however_they_are_spelled() -> None:
    votes = [Vote("1/2", 1.0), Vote("0.5", 1.0), Vote("2", 0.0), Vote("3", 0.0)]

    assert majority_at_k(votes, 4) == 1.0


def test_answers_that_are_level_share_the_draw() -> None:
    assert majority_at_k([Vote("4", 1.0), Vote("5", 0.0)], 2) == 0.5
    assert majority_at_k([Vote("4", 1.0), Vote("5", 0.0), Vote("6", 0.0)], 3) == pytest.approx(1 / 3)


def test_a_response_without_an_answer_does_not_vote() -> None:
    assert majority_at_k([Vote("4", 1.0), Vote("", 0.0), Vote("", 0.0)], 3) == 1.0
    assert majority_at_k([Vote("", 0.0), Vote("", 0.0)], 2) == 0.0


@pytest.mark.parametrize("seed", range(30))
def test_both_are_the_mean_over_all_draws(seed: int) -> None:
    rng = random.Random(seed)
    scores = {"": 0.0, "4": 1.0, "5": 0.0, "6": 0.25, "2+2": 1.0}
    votes = [Vote(answer, scores[answer]) for answer in rng.choices(list(scores), k=rng.randint(1, 8))]

    for k in range(1, len(votes) + 1):
        draws = list(combinations(votes, k))
        best = math.fsum(max(vote.score for vote in draw) for draw in draws) / len(draws)
        majority = math.fsum(score_of_the_majority(draw) for draw in draws) / len(draws)
        assert best_at_k([vote.score for vote in votes], k) == pytest.approx(best)
        assert majority_at_k(votes, k) == pytest.approx(majority)


def score_of_the_majority(draw: tuple[Vote, ...]) -> float:
    """By counting; the same answer always has the same score here, and the right ones are one side."""
    sides: dict[str, list[float]] = defaultdict(list)
    for vote in draw:
        if vote.answer:
            sides["right" if vote.score == 1.0 else vote.answer].append(vote.score)
    if not sides:
        return math.fsum(vote.score for vote in draw) / len(draw)
    most = max(map(len, sides.values()))
    winners = [scores[0] for scores in sides.values() if len(scores) == most]
    return math.fsum(winners) / len(winners)


@pytest.mark.parametrize("k", [0, 3])
def test_more_than_there_are_cannot_be_drawn(k: int) -> None:
    with pytest.raises(ValueError, match=f"k = {k} of 2 responses; expected 1 to 2"):
        best_at_k([0.0, 1.0], k)


def test_an_estimate_has_the_standard_error_of_its_mean() -> None:
    found = estimate([1.0, 0.0, 0.0, 1.0])

    # The unbiased variance is 4 * 0.25 / 3; that of the mean a quarter of it.
    assert found is not None
    assert (found.mean, found.num_prompts) == (0.5, 4)
    assert found.stderr == pytest.approx(math.sqrt(1 / 12))
    assert estimate([]) is None


@pytest.mark.parametrize(("num", "ks"), [(1, [1]), (2, [1, 2]), (6, [1, 2, 4, 6]), (8, [1, 2, 4, 8])])
def test_ks_are_powers_of_two_and_all(num: int, ks: list[int]) -> None:
    assert ks_up_to(num) == ks
