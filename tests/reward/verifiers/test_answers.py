"""What counts as the answer of a response, and which answers are equal without algebra."""

import pytest

from services.reward.verifiers.answers import are_equal, boxed_answer, exact_answer, is_boxed_match, is_exact_match


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("1 + 2 = 3\n#### 3", "3"),
        ("# 4 # 5 ", "5"),
        ("no mark", None),
        ("mark and nothing #", ""),
    ],
)
def test_the_exact_answer_follows_the_last_number_sign(response: str, answer: str | None) -> None:
    assert exact_answer(response) == answer


def test_an_exact_match_compares_texts_and_not_values() -> None:
    assert is_exact_match("so # 42\n", "42")
    assert not is_exact_match("so # 42.0", "42")
    assert not is_exact_match("42", "42")


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        (r"first \boxed{1}, no: \boxed{2}", "2"),
        (r"<think>\boxed{1}</think> \boxed{2}", "2"),
        (r"<think>\boxed{1}</think> I do not know", None),
        (r"\boxed{1} <think>\boxed{3}", "3"),
        (r"\boxed{\frac{1}{2}} and more}", r"\frac{1}{2}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\boxed{7}}", "7"),
        (r"\boxed {7}", "7"),
        (r"\fbox{7}", "7"),
        (r"\boxed{7}, as \boxed says", "7"),
        (r"\boxed{7} then cut off \boxed{8", None),
        ("nothing", None),
        ("", None),
    ],
)
def test_the_boxed_answer_is_the_last_one_after_the_last_thought(response: str, answer: str | None) -> None:
    assert boxed_answer(response) == answer


@pytest.mark.parametrize(
    ("answer", "ground_truth"),
    [
        ("42", "42"),
        ("42.0", "42"),
        ("042", "42"),
        ("+42", "42"),
        ("42.", "42"),
        (" $42$ ", "42"),
        (r"\$42", "42"),
        (r"\text{42}", "42"),
        ("1,234,567", "1234567"),
        ("1{,}234", "1234"),
        (r"1\,234", "1234"),
        ("−7", "-7"),
        (".5", "0.5"),
        ("1/2", r"\frac{1}{2}"),
        (r"\dfrac{2}{4}", "0.50"),
        (r"\frac12", "1/2"),
        (r"-\frac{1}{2}", "-0.5"),
        (r"\frac{-1}{2}", "-1/2"),
        (r"\left(1, 2\right)", "(1,2)"),
        (r"\text{Evelyn}", "Evelyn"),
        (r"\mathrm{ Evelyn }", "Evelyn"),
        ("50\\%", "50%"),
        ("1 234", "1234"),
    ],
)
def test_answers_that_mean_the_same_are_equal(answer: str, ground_truth: str) -> None:
    assert are_equal(answer, ground_truth)


@pytest.mark.parametrize(
    ("answer", "ground_truth"),
    [
        ("", ""),
        ("$ $", ""),
        ("42", "43"),
        ("-42", "42"),
        ("1,23", "123"),
        ("12,34", "1234"),
        ("(2,1)", "(1,2)"),
        ("0.333333333333333333", "1/3"),
        ("1/0", "1/0.0"),
        ("42 or 43", "42"),
        ("4 2", "42"),
        ("0.5\\%", "0.5"),
        ("41,42", "42"),
        ("1e400", "1e401"),
        ("\u0664\u0662", "43"),
    ],
)
def test_answers_that_differ_are_not_equal(answer: str, ground_truth: str) -> None:
    assert not are_equal(answer, ground_truth)


def test_a_very_long_answer_is_right_only_when_it_is_the_ground_truth_itself() -> None:
    digits = "1" * 5000

    assert is_boxed_match(f"\\boxed{{{digits}}}", digits)
    assert not is_boxed_match(f"\\boxed{{{digits}.0}}", digits)


@pytest.mark.parametrize(
    "response", ["\\boxed{" * 300_000, "\\boxed{" + "{" * 1_000_000, "\\boxed " * 300_000, "#" * 2_000_000]
)
def test_megabytes_of_markup_are_no_answer(response: str) -> None:
    assert not is_boxed_match(response, "42")
    assert not is_exact_match(response, "42")
