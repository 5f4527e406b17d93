"""The built-in functions besides exact, boxed and math, and weighted sums."""

from collections.abc import Awaitable
from dataclasses import replace
from pathlib import Path

import pytest

from services.reward.verifiers.functions import load
from services.reward.verifiers.placement import Place, calls
from tppo.rollout import RewardRequest, ScoreStatus
from tppo.scoring.outcome import Outcome, outcome_of

REQUEST = RewardRequest("r", 0, "sums", "2+2?", "it is # 4", "4", num_response_tokens=90)


def score(spec: str, response: str) -> object:
    return load(spec)(replace(REQUEST, response=response))


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("<think>so</think> 4", 1.0),
        (" <think>so</think>4 ", 1.0),
        ("<think>so</think>", 0.0),
        ("so</think> 4", 0.0),
        ("first <think>so</think> 4", 0.0),
        ("<think>so</think><think>so</think> 4", 0.0),
        ("4", 0.0),
    ],
)
def test_the_format_is_one_thought_and_then_an_answer(response: str, expected: float) -> None:
    assert score("format", response) == expected


def test_a_pattern_may_be_anywhere_and_span_lines() -> None:
    assert score(r"regex('a.b$')", "x a\nb") == 1.0
    assert score(r"regex('a.b$')", "a b c") == 0.0


@pytest.mark.parametrize(
    ("num_tokens", "expected"), [(0, 0.0), (80, 0.0), (90, -0.5), (95, -0.75), (100, -1.0), (200, -1.0)]
)
def test_length_is_punished_from_the_buffer_on(num_tokens: int, expected: float) -> None:
    assert load("length(limit=100, buffer=20)")(replace(REQUEST, num_response_tokens=num_tokens)) == expected


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("one two three", 0.0),
        ("a b a b a b", -0.6),  # a-b, b-a, a-b, b-a, a-b: two of five are new
        ("a A a a a", -0.75),  # one of four is new
        ("a", 0.0),
        ("", 0.0),
    ],
)
def test_repetition_is_the_share_of_pairs_that_occurred_before(response: str, expected: float) -> None:
    assert score("repetition(ngram=2)", response) == pytest.approx(expected)


def test_a_sum_adds_weighted_scores_and_keeps_each_as_a_component() -> None:
    outcome = outcome_of(load("exact - 0.5*format + 0.2*length(limit=100, buffer=20)")(REQUEST))

    assert outcome.score == pytest.approx(0.9)
    assert outcome.components == {"exact": 1.0, "format": 0.0, "length": -0.5}


def test_a_sum_numbers_functions_of_the_same_name() -> None:
    outcome = outcome_of(load("0.5*regex('it') + regex('that')")(REQUEST))

    assert outcome.components == {"regex_0": 1.0, "regex_1": 0.0}


@pytest.mark.parametrize(("result", "status"), [("None", ScoreStatus.ABSTAINED), ("'good'", ScoreStatus.FAILED)])
def test_a_sum_has_no_score_when_one_of_its_terms_has_none(tmp_path: Path, result: str, status: ScoreStatus) -> None:
    file = tmp_path / "mine.py"
    file.write_text(f"def f(data_source, solution_str, ground_truth, extra_info):\n    return {result}\n")

    outcome = outcome_of(load(f'exact + 0.5*"{file}:f"')(REQUEST))

    assert (outcome.status, outcome.score) == (status, None)


async def test_a_sum_with_an_asynchronous_function_is_awaited(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("async def f(data_source, solution_str, ground_truth, extra_info):\n    return 0.5\n")

    result = load(f'exact + 0.5*"{file}:f"')(REQUEST)

    assert isinstance(result, Awaitable)
    assert await result == Outcome(ScoreStatus.SCORED, 1.25, {"exact": 1.0, "mine.py:f": 0.5})


@pytest.mark.parametrize(
    ("spec", "is_inline"),
    [
        ("exact", True),
        ("exact + 0.1*format - length(limit=9, buffer=3)", True),
        ("math", False),
        ("exact + 0.1*regex('a')", False),
        ('exact + "mine.py:f"', False),
    ],
)
def test_a_sum_runs_in_the_service_when_all_its_terms_are_bounded(spec: str, is_inline: bool) -> None:
    assert all(call.place is Place.INLINE for call in calls(spec)) is is_inline
