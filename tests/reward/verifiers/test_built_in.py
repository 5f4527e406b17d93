"""The built-in functions besides exact, boxed and math, and weighted sums."""

from collections.abc import Awaitable
from dataclasses import replace
from pathlib import Path

import pytest

from services.reward.verifiers.functions import load
from services.reward.verifiers.placement import Place, calls
from tppo.rollout import FinishReason, RewardRequest, ScoreStatus
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


@pytest.mark.parametrize(
    ("prompt", "response", "is_thinking"),
    [
        ("2+2?", "so", False),
        ("2+2?", "<think> so", True),
        ("2+2?", "<think> so </think> so", False),
        ("2+2?", "<think> so </think> so <think> no", True),
        ("2+2?<think>", "so", True),
        ("2+2?<think>\n", "so </think> so", False),
        ("2+2?<think></think>", "so", False),
        ("Put your thoughts between <think> and </think>.", "so", False),
        ("Begin with <think>.", "so", False),
        ("2+2?", "<thinking> so", True),
        ("2+2?", "<reasoning> so </reasoning>", False),
        ("2+2?", "[THINK] so", True),
        ("2+2?", "[THINK] so [/THINK]", False),
        ("2+2?", "◁think▷ so", True),
        ("2+2?", "◁think▷ so ◁/think▷", False),
        ("2+2?", "<|begin_of_thought|> so", True),
        ("2+2?", "<|begin_of_thought|> so <|end_of_thought|>", False),
        ("2+2?<seed:think>", "so", True),
        ("2+2?<seed:think>", "so </seed:think>", False),
        ("2+2?<thought>\n", "so", True),
    ],
)
@pytest.mark.parametrize(
    ("function", "answer", "ground_truth"),
    [("exact", "# 4", "4"), ("boxed", r"\boxed{4}", "4"), ("math", r"\boxed{4}", "4.0")],
)
def test_a_thought_that_never_closes_holds_no_answer(
    prompt: str, response: str, is_thinking: bool, function: str, answer: str, ground_truth: str
) -> None:
    request = replace(REQUEST, prompt=prompt, response=f"{response} {answer}", ground_truth=ground_truth)

    assert load(function)(request) == (0.0 if is_thinking else 1.0)
    assert load(f"{function}(unfinished='score')")(request) == 1.0
    assert outcome_of(load(f"2*{function} - 1")(request)).score == (-1.0 if is_thinking else 1.0)


@pytest.mark.parametrize(
    ("unfinished", "finish_reason", "expected"),
    [
        ("thought", FinishReason.LENGTH, 1.0),
        ("cut", FinishReason.LENGTH, 0.0),
        ("cut", FinishReason.STOP, 1.0),
        ("cut", None, 1.0),
        ("score", FinishReason.LENGTH, 1.0),
    ],
)
def test_a_cut_response_gets_what_the_configuration_says(
    unfinished: str, finish_reason: FinishReason | None, expected: float
) -> None:
    request = replace(REQUEST, finish_reason=finish_reason)

    assert load(f"exact(unfinished='{unfinished}')")(request) == expected


def test_another_rule_for_unfinished_responses_is_refused() -> None:
    with pytest.raises(ValueError, match="unfinished='zero': expected thought, cut, score"):
        load("math(unfinished='zero')")


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


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("2*exact - 1", 1.0),
        ("exact*2 - 1", 1.0),
        ("2*(exact - 0.5)", 1.0),
        ("exact/2", 0.5),
        ("1 - exact", 0.0),
        ("-1 + 2*exact", 1.0),
        ("-1*exact", -1.0),
        ("0.5 + 0.25 + format", 0.75),
        ("2*format - 1", -1.0),
        ("constant(-1)", -1.0),
    ],
)
def test_a_number_in_a_sum_shifts_every_score(spec: str, expected: float) -> None:
    outcome = outcome_of(load(spec)(REQUEST))

    assert outcome.score == expected
    assert all(not name.startswith("constant") for name in outcome.components)


@pytest.mark.parametrize("spec", ["1", "1 + 2", "-0.5", "exact*format", "exact/0", "1/exact", "true*exact", "2**exact"])
def test_numbers_alone_and_other_arithmetic_are_no_reward_function(spec: str) -> None:
    with pytest.raises(ValueError, match="no reward function"):
        load(spec)


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
