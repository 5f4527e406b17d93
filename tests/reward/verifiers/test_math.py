"""The verifier for mathematics: who gets credit, and what happens to answers made to break it."""

import collections

import pytest

from services.reward.verifiers.functions import load
from services.reward.verifiers.mathematics.verifier import is_correct
from services.reward.workers.pool import WorkerPool
from services.reward.workers.worker import WorkerLimits
from tests.reward.verifiers.math_cases import CASES, Case
from tppo.rollout import RewardRequest, ScoreStatus

HAZARDS = [case for case in CASES if case.category == "hazard"]
BY_CATEGORY = collections.defaultdict[str, list[Case]](list)
for case in CASES:
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
        ("The answer is 17.", False),
        ("", False),
        ("a" * 2_000_000, False),
        (r"\frac" * 20_000 + r"\boxed{17}", True),
        ("{" * 1_000_000 + r"\boxed{17}", True),
    ],
)
def test_only_the_last_box_after_the_last_thought_counts(response: str, is_right: bool) -> None:
    assert is_correct(response, "17") is is_right


@pytest.mark.parametrize("gold", [r"\frac{1}{", r"\sqrt[", "9^{9^{9}}", "", "19_7"])
def test_a_ground_truth_that_cannot_be_read_is_compared_by_its_letters_or_not_at_all(gold: str) -> None:
    assert is_correct(r"\boxed{17}", gold) is None
    assert load("math")(request("17", gold)) is None


def test_a_ground_truth_may_be_the_whole_solution() -> None:
    assert is_correct(r"\boxed{\frac{1}{2}}", r"Since 1 + 1 = 2, the answer is $\boxed{0.5}$.")


async def test_an_answer_that_takes_too_long_is_timed_out() -> None:
    pool = WorkerPool(["math"], num_workers=1, timeout_seconds=0.001, limits=WorkerLimits(2**31))
    await pool.start()
    try:
        outcome = await pool.outcome("math", request(r"\sin(x)^2+\cos(x)^2", "1"))
    finally:
        await pool.close()

    assert outcome.status is ScoreStatus.TIMED_OUT
