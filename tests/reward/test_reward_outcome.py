"""What a function's return value, or its failure, stands for."""

import math
from collections.abc import Callable

import numpy as np
import pytest

from services.reward.outcome import Outcome, outcome_of, outcome_of_call, score_of
from tppo.rollout import RewardRequest, ScoreStatus

REQUEST = RewardRequest("r1", 2, "gsm8k", "2+2?", "4", "4", is_evaluation=True)


@pytest.mark.parametrize(
    ("result", "score"),
    [
        (0.5, 0.5),
        (1, 1.0),
        (True, 1.0),
        (-3.0, -3.0),
        (np.float32(0.25), 0.25),
        (np.array(2), 2.0),
        (np.bool_(False), 0.0),
    ],
)
def test_a_number_of_any_kind_is_a_score(result: object, score: float) -> None:
    assert outcome_of(result) == Outcome(ScoreStatus.SCORED, score)


def test_further_numbers_of_a_table_are_components() -> None:
    outcome = outcome_of({"score": 0.5, "acc": True, "steps": 7, "pred": "42"})

    assert outcome == Outcome(ScoreStatus.SCORED, 0.5, {"acc": 1.0, "steps": 7.0})


@pytest.mark.parametrize("result", [None, {"score": None}])
def test_no_score_is_an_abstention(result: object) -> None:
    assert outcome_of(result).status is ScoreStatus.ABSTAINED


@pytest.mark.parametrize(
    ("result", "cause"),
    [
        (math.nan, "the function returned score = nan; expected a finite number"),
        (-math.inf, "the function returned score = -inf; expected a finite number"),
        (10**400, "the function returned score = inf; expected a finite number"),
        ("1.0", "the function returned '1.0' of type str; expected a number"),
        ([1.0], "the function returned [1.0] of type list; expected a number"),
        ({"acc": 1}, """the function returned a table without "score": its keys are ['acc']"""),
        ({"score": 1, "length": math.nan}, "the function returned length = nan; expected a finite number"),
    ],
)
def test_what_is_no_finite_number_is_a_failure_with_its_cause(result: object, cause: str) -> None:
    assert outcome_of(result) == Outcome(ScoreStatus.FAILED, error=cause)


def test_an_exception_is_a_failure_that_names_the_place() -> None:
    outcome = outcome_of_call(divide_by_zero, REQUEST)

    assert outcome.status is ScoreStatus.FAILED
    assert outcome.error.startswith("ZeroDivisionError: division by zero (")
    assert outcome.error.endswith("in divide_by_zero)")


@pytest.mark.parametrize("result", [1.0, None, math.nan])
def test_the_score_of_a_request_answers_that_request(result: float | None) -> None:
    score = score_of(REQUEST, outcome_of_call(returning(result), REQUEST), function="mine")

    assert (score.rollout_id, score.attempt, score.is_evaluation, score.function) == ("r1", 2, True, "mine")


def divide_by_zero(_: RewardRequest) -> float:
    return 1 / 0


def returning(result: object) -> Callable[[RewardRequest], object]:
    return lambda _: result
