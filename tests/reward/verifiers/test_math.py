"""The verifier for mathematics: who gets credit, and what happens to answers made to break it."""

import collections
import time

import pytest

from services.reward.verifiers.functions import load
from services.reward.verifiers.mathematics.verifier import is_correct
from services.reward.workers.pool import WorkerPool
from services.reward.workers.worker import WorkerLimits
from tests.reward.verifiers import math_classes, math_conventions
from tests.reward.verifiers.math_cases import CASES, Case
from tppo.rollout import RewardRequest, ScoreStatus

HAZARDS = [case for case in CASES if case.category == "hazard"]
CLASSES = {**math_classes.CLASSES, **math_conventions.CLASSES}
BY_CATEGORY = collections.defaultdict[str, list[Case]](list)
for case in (*CASES, *math_classes.CASES, *math_conventions.CASES):
    if case.category != "hazard":
        BY_CATEGORY[case.category].append(case)


def request(answer: str, gold: str) -> RewardRequest:
    return RewardRequest("r", 0, "math", "How much?", f"It follows that \\boxed{{{answer}}}.", gold)


@pytest.mark.parametrize("category", BY_CATEGORY)
@pytest.mark.slow
def test_each_answer_of_the_category_gets_its_verdict(category: str) -> None:
    wrong = [
        case
        for case in BY_CATEGORY[category]
        if is_correct(request(case.answer, case.gold).response, case.gold) is not case.is_correct
    ]

    assert wrong == []


@pytest.mark.slow
async def test_no_hazard_earns_credit_and_the_next_answer_is_graded_as_usual() -> None:
    pool = WorkerPool(["math"], num_workers=1, timeout_seconds=10.0, limits=WorkerLimits(2**31))
    await pool.start()
    try:
        for case in HAZARDS:
            hazard = await pool.outcome("math", request(case.answer, case.gold))
            following = await pool.outcome("math", request("34/2", case.gold))

            assert (case.answer[:80], hazard.score or 0.0) == (case.answer[:80], 0.0)
            assert following.score == 1.0
    finally:
        await pool.close()


@pytest.mark.parametrize(
    ("response", "is_right"),
    [
        (r"\boxed{16}, no, \boxed{17}", True),
        (r"\boxed{17}, no, \boxed{16}", False),
        (r"<think>\boxed{16}</think>\boxed{17}", True),
        (r"<think>\boxed{17}</think>The answer is 17.", False),
        (r"<think>a</think>\boxed{17}</think>\boxed{16}", False),
        (r"$$\boxed{17}$$", True),
        (r"\[\boxed{ 17 }\]", True),
        (r"**\boxed{17}**", True),
        (r"\boxed{\boxed{17}}", True),
        (r"\boxed{17} \boxed{}", False),
        (r"\boxed{17", False),
        (r"\boxed 17", True),
        (r"so $\boxed17$.", True),
        (r"\boxed{16} or \boxed 17.", True),
        (r"\boxed{17}, written with \boxed as asked", True),
        (r"\boxed{17}, then \boxed 16", False),
        ("The answer is 17.", False),
        ("", False),
        ("a" * 2_000_000, False),
        (r"\frac" * 20_000 + r"\boxed{17}", True),
        ("{" * 1_000_000 + r"\boxed{17}", True),
    ],
)
def test_only_the_last_box_after_the_last_thought_counts(response: str, is_right: bool) -> None:
    assert is_correct(response, "17") is is_right


@pytest.mark.parametrize("part", [",", "(", "1'", "1_", "n ", r"\tag{", "[[1,2],", "一", "и ", "1 h "])
def test_a_box_of_one_thing_many_times_is_read_in_bounded_time(part: str) -> None:
    start = time.process_time()

    assert is_correct(rf"\boxed{{{(part * 1900)[:1900]}}}", "17") is False
    assert time.process_time() - start < 10.0


@pytest.mark.parametrize("name", CLASSES)
def test_each_class_has_near_misses(name: str) -> None:
    assert len(CLASSES[name].wrong) >= 2


@pytest.mark.parametrize("gold", ["", " ", r"\frac{1}{", r"\sqrt[", "19_7", "(1,2", "1}{2"])
@pytest.mark.parametrize("response", [r"\boxed{17}", "no box", r"\boxed{19_7}"])
def test_a_damaged_ground_truth_scores_no_answer_neither_right_nor_wrong(gold: str, response: str) -> None:
    assert is_correct(response, gold) is None
    assert load("math")(RewardRequest("r", 0, "math", "How much?", response, gold)) is None


@pytest.mark.parametrize(
    ("gold", "right", "wrong"),
    [
        (r"1, 2, \ldots, n", r"1,2,\dots,n", r"1, 3, \ldots, n"),
        (r"1:2:3:\ldots", r"1 : 2 : 3 : \ldots", r"1:4:9:\ldots"),
        ("9^{9^{9}}", "9^{9^9}", "17"),
        ("10^{100000}", "10^{100000}", "10^{100001}"),
        (r"\frac{1}{2004!}", r"\dfrac{1}{2004!}", r"\frac{1}{2006!}"),
        (r"x \mapsto 2x", r"x\mapsto 2x", r"x \mapsto 3x"),
        (r"\text{增加}", "增加", "减少"),
        ("да", r"\text{Да}", "нет"),
    ],
)
def test_a_ground_truth_without_a_value_is_compared_by_its_letters(gold: str, right: str, wrong: str) -> None:
    assert is_correct(rf"\boxed{{{right}}}", gold) is True
    assert is_correct(rf"\boxed{{{wrong}}}", gold) is False


@pytest.mark.parametrize(
    ("ground_truth", "right", "wrong"),
    [
        ('["18"]', "18", "19"),
        ('["18", "18.5"]', "18.5", "17"),
        ("['\\\\frac{1}{2}']", "0.5", "2"),
        (r'["\frac{1}{2}"]', "0.5", "2"),
        (r'["\\frac{1}{2}"]', "0.5", "2"),
        ('"18"', "18", "19"),
        ("Natalia sold 48/2 = <<48/2=24>>24 clips.\n#### 72", "72", "24"),
        ("#### 1,234", "1234", "1"),
        (r"Since 1 + 1 = 2, the answer is $\boxed{0.5}$.", r"\frac{1}{2}", "2"),
        ("$18$", "18", "19"),
        (r"\(18\)", "18", "19"),
        ("The answer is 18.", "18", "19"),
        ("[18]", "18", "19"),
        ("[1,2]", "[1,2]", "1"),
    ],
)
def test_ground_truths_come_in_the_shapes_of_the_known_data_sets(ground_truth: str, right: str, wrong: str) -> None:
    assert is_correct(rf"\boxed{{{right}}}", ground_truth) is True
    assert is_correct(rf"\boxed{{{wrong}}}", ground_truth) is False


@pytest.mark.parametrize(
    ("spec", "answer", "gold", "score"),
    [
        ("math", r"\binom{10}{3}", "120", 0.0),
        ("math(strict=false)", r"\binom{10}{3}", "120", 1.0),
        ("math(strict=False)", r"\text{lcm}(12,18)", "36", 1.0),
        ("math(strict=false)", "42", "101010_2", 1.0),
        ("math(strict=false)", r"\binom{10}{4}", "120", 0.0),
        ("math", r"2\cdot 60", "120", 1.0),
        ("math(strict=true)", r"2\cdot 60", "120", 0.0),
        ("math(strict=true)", "m+n=120", "120", 1.0),
        ("math(strict=true)", "m+n=2*60", "120", 0.0),
        ("math(strict=true)", r"1.2\times 10^2", "120", 1.0),
        ("math(strict=true)", r"120\text{ cm}", "120", 1.0),
        ("math(strict=true)", r"1\frac{1}{2}", "1.5", 1.0),
        ("math(strict=true)", r"\sqrt{12}", r"2\sqrt{3}", 1.0),
        ("math(strict=true)", r"\sum_{k=1}^{n} k", r"\frac{n(n+1)}{2}", 0.0),
    ],
)
def test_strict_says_how_far_a_number_has_to_be_worked_out(spec: str, answer: str, gold: str, score: float) -> None:
    assert load(spec)(request(answer, gold)) == score


@pytest.mark.parametrize(
    ("prompt", "answer", "gold", "score"),
    [
        (r"Compute $123 \cdot 456$.", r"123\cdot 456", "56088", 0.0),
        (r"Compute $123 \cdot 456$.", r"\boldsymbol{123\cdot 456}", "56088", 0.0),
        (r"Compute $123 \cdot 456$.", "56088", "56088", 1.0),
        (r"Compute $123 \cdot 456$.", r"123\cdot 456=56088", "56088", 1.0),
        ("What is 2^10?", "2^{10}", "1024", 0.0),
        ("Which is larger, 1/2 or 1/3?", "1/2", r"\frac{1}{2}", 1.0),
        (r"Simplify $\sqrt{12}$.", r"\sqrt{12}", r"2\sqrt{3}", 1.0),
        ("What is -5 + 0?", "-5", "-5.0", 1.0),
    ],
)
def test_arithmetic_copied_from_the_prompt_is_no_result(prompt: str, answer: str, gold: str, score: float) -> None:
    response = rf"It is \boxed{{{answer}}}."

    assert load("math")(RewardRequest("r", 0, "math", prompt, response, gold)) == score


@pytest.mark.parametrize(
    ("answer", "gold", "score"),
    [
        ("3.14", r"3.1416", 1.0),
        (r"\pi", "3.1416", 1.0),
        ("3.10", "3.1416", 0.0),
        ("-3.14", "3.1416", 0.0),
        (r"3.14\text{ cm}", r"3.1416\text{ cm}", 1.0),
        (r"3.14\text{ m}", r"3.1416\text{ cm}", 0.0),
        ("(1.001, 2)", "(1.0, 2.0)", 1.0),
        ("(2.0, 1.001)", "(1.0, 2.0)", 0.0),
        ("1000.5", "1000", 0.0),
        ("0.3333", r"\frac{1}{3}", 0.0),
        (r"\frac{1}{3}", "0.333", 1.0),
        (r"33.3\%", "0.333", 1.0),
        ("x", "3.1416", 0.0),
        ("0.001", "0.0", 1.0),
        ("0.1", "0.0", 0.0),
    ],
)
def test_a_tolerance_is_for_ground_truths_with_a_decimal_point(answer: str, gold: str, score: float) -> None:
    assert load("math(tolerance=0.005)")(request(answer, gold)) == score


@pytest.mark.parametrize(
    "spec",
    [
        "math(strict='no')",
        "math(tolerance=-0.1)",
        "math(tolerance=1)",
        "math(tolerance=true)",
        "math(tolerance='a')",
        "math(exact=1)",
    ],
)
def test_arguments_that_mean_nothing_are_refused(spec: str) -> None:
    with pytest.raises(ValueError, match=r"expected|unexpected"):
        load(spec)


async def test_an_answer_that_takes_too_long_is_timed_out() -> None:
    pool = WorkerPool(["math"], num_workers=1, timeout_seconds=0.001, limits=WorkerLimits(2**31))
    await pool.start()
    try:
        outcome = await pool.outcome("math", request(r"\sin(x)^2+\cos(x)^2", "1"))
    finally:
        await pool.close()

    assert outcome.status is ScoreStatus.TIMED_OUT
