"""What a function's return value, or its failure, stands for: the same in a worker and in a user's own process."""

import asyncio
import json
import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from services.reward.attached.messages import answer_record
from services.reward.attached.offer import outcome_of_answer
from services.reward.scorer import score_of
from services.reward.verifiers.functions import outcome_of_call
from tests.reward.attached.attaching import SECTION, Server, a_server
from tests.reward.returned_values import ABSTAINED, CASES, FAILED, SCORED, Case, compute_score
from tppo.reward_client import attach, reward_function
from tppo.rollout import RewardRequest, Score, ScoreStatus
from tppo.scoring.outcome import ANY_SCORE, Outcome, ScoreRange, outcome_of
from tppo.scoring.results import results_of
from tppo.v1 import reward_pb2 as pb
from tppo.v1 import rollout_pb2

REQUEST = RewardRequest("r1", 2, "gsm8k", "2+2?", "4", "4", is_evaluation=True, num_response_tokens=1)
TENSORS = {
    "tensor without dimensions": Case(torch.tensor(0.5), SCORED, 0.5),
    "tensor of one": Case(torch.tensor([2]), SCORED, 2.0),
    "tensor that has a gradient": Case(torch.tensor([0.25], requires_grad=True), SCORED, 0.25),
    "half precision": Case(torch.tensor(0.5, dtype=torch.bfloat16), SCORED, 0.5),
    "tensor of two": Case(torch.tensor([0.5, 0.5]), FAILED),
    "complex tensor": Case(torch.tensor(1j), FAILED),
    "tensor that is nan": Case(torch.tensor(math.nan), FAILED),
    "component that is a tensor": Case({"score": 1, "a": torch.ones(1), "b": torch.ones(2)}, SCORED, 1.0, {"a": 1.0}),
}
BY_FILE = f"{Path(__file__).with_name('returned_values.py')}:compute_score"


def in_a_worker(value: object) -> Outcome:
    """The outcome as the service reads it from the worker's answer."""
    answer = json.loads(json.dumps(asdict(outcome_of_call(lambda _: value, REQUEST))))
    return Outcome(**{**answer, "status": ScoreStatus(answer["status"])})


def in_a_process(value: object, scores: ScoreRange = ANY_SCORE) -> Outcome:
    """The outcome as the service reads it from the message of a user's process."""
    request = rollout_pb2.RewardRequest(rollout_id=REQUEST.rollout_id, num_response_tokens=1)
    (result,) = results_of([pb.Work(lease_id=1, request=request)], [value], scores)
    return outcome_of_answer(answer_record(pb.WorkResult.FromString(result.SerializeToString())), REQUEST, scores)


@pytest.mark.parametrize("name", CASES | TENSORS)
def test_a_returned_value_stands_for_one_outcome_wherever_the_function_runs(name: str) -> None:
    case = (CASES | TENSORS)[name]
    for outcome in in_a_worker(case.value), in_a_process(case.value):
        assert (outcome.status, outcome.score, outcome.components) == (case.status, case.score, case.components)
    assert in_a_worker(case.value).error == in_a_process(case.value).error


async def test_a_real_worker_and_a_real_process_score_every_returned_value_alike() -> None:
    reward_function("returned_values")(compute_score)
    section = SECTION.model_copy(
        update={"functions": {"file": BY_FILE, "process": "grpc:returned_values"}, "num_workers": 1}
    )
    async with a_server(section) as server:
        client = asyncio.create_task(attach(server.address))
        found = {name: [await scored(server, one, name) for one in ("file", "process")] for name in CASES}
        client.cancel()
        await asyncio.wait([client])

    for name, case in CASES.items():
        expected = (case.status, case.score, case.components)
        assert [(one.status, one.score, one.components) for one in found[name]] == [expected] * 2, name


async def scored(server: Server, data_source: str, response: str) -> Score:
    return await server.parts.scorer.score(RewardRequest("r", 0, data_source, "", response, "", num_response_tokens=1))


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
    assert outcome_of(result) == Outcome(FAILED, error=cause)


def test_a_score_outside_the_declared_range_is_a_failure() -> None:
    outcome = in_a_process(1.5, ScoreRange(0.0, 1.0))

    assert outcome == Outcome(FAILED, error="the function returned score = 1.5; expected a score from 0.0 to 1.0")


@pytest.mark.parametrize("bounds", [(1.0, 0.0), (math.nan, 1.0), (0.0, math.nan)])
def test_a_range_without_a_number_in_it_is_refused(bounds: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="expected min_score <= max_score"):
        ScoreRange(*bounds)


def test_an_outcome_stands_for_itself() -> None:
    outcome = Outcome(ABSTAINED)

    assert outcome_of(outcome) is outcome


def test_an_exception_is_a_failure_that_names_the_place() -> None:
    outcome = outcome_of_call(divide_by_zero, REQUEST)

    assert outcome.status is FAILED
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
