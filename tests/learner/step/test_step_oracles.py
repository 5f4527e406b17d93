"""Worked cases through a whole step: values that a table prescribes, advantages as the step's trace shows them."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from learner.models.loading.loading import policy_from_network
from learner.models.passes.outputs import ValueModel
from learner.models.weights.master_weights import MasterWeights
from learner.rollouts.rollout import Rollout
from learner.state import new_trainer
from learner.step.trainer import StepResult, Trainer
from tests.learner.builders import a_row
from tests.learner.tiny_models import VOCABULARY, a_network, a_step_config

# V(s_t) of seven tokens in a row; the response is cut after the fourth.
VALUES = [0.2, 0.3, 0.1, 0.5, 0.6, 0.45, 0.8]
PROMPT = (3,)
RESPONSE = [4, 5, 6, 7, 8, 9, 1]


class TableOfValues(torch.nn.Module):
    """A value model that gives the state after token 3 the first value, the one after token 4 the second, and so on."""

    config = SimpleNamespace(_attn_implementation="none")
    device = torch.device("cpu")

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Parameter(torch.zeros(VOCABULARY))
        self.table.data[3 : 3 + len(VALUES)] = torch.tensor(VALUES)

    def forward(self, input_ids: Tensor, **_: Any) -> Any:
        return SimpleNamespace(logits=self.table[input_ids][..., None])


def a_trainer(*, window_length: int, **algorithm: Any) -> Trainer:
    """K = 2, gamma = 1, lambda = .9, nothing whitened."""
    config = a_step_config(
        run={"mode": "lockstep", "window_length": window_length, "max_response_length": 18},
        algorithm={"lam": 0.9, "num_ignored_tail_tokens": 2, "advantage_whitening": "none"} | algorithm,
        trace={"enabled": True},
    )
    network: Any = TableOfValues()
    value_model = ValueModel(network, MasterWeights.of(network, torch.float32), packs_rows=True)
    return new_trainer(config, policy_from_network(a_network("policy")), value_model)


def column(result: StepResult, name: str) -> list[Any]:
    assert result.trace is not None
    values: list[Any] = result.trace.column(name).to_pylist()
    return values


def test_cutting_a_response_into_two_windows_gives_the_worked_advantages() -> None:
    trainer = a_trainer(window_length=4)

    first = trainer.step([a_row(RESPONSE[:4], prompt=PROMPT)], policy_version=0)
    values = list(first.values[0])
    carried = a_row(RESPONSE, prompt=PROMPT, window_start=4, score=1.0, earlier_values=values)
    second = trainer.step([carried], policy_version=0)

    assert values == pytest.approx(VALUES[:4])
    assert column(first, "raw_advantage") == pytest.approx([0.244, 0.16, 0.4, 0.0])
    assert column(first, "policy_mask") == [True, True, False, False]
    assert column(first, "value_mask") == [False] * 4
    assert column(second, "raw_advantage")[4:] == pytest.approx([0.327, 0.53, 0.2])
    assert column(second, "policy_mask") == [False] * 4 + [True] * 3
    assert column(second, "value_mask") == [True] * 7
    assert column(second, "return") == pytest.approx([1.0] * 7)


def test_the_same_response_in_one_window_has_the_advantages_of_the_whole() -> None:
    result = a_trainer(window_length=8).step([a_row(RESPONSE, prompt=PROMPT, score=1.0)], policy_version=0)

    expected = [0.5314447, 0.479383, 0.75487, 0.3943, 0.327, 0.53, 0.2]
    assert column(result, "raw_advantage") == pytest.approx(expected)


def test_discount_below_one_discounts_the_value_after_a_cut_as_well() -> None:
    result = a_trainer(window_length=4, gamma=0.9, lam=0.0).step([a_row(RESPONSE[:4], prompt=PROMPT)], policy_version=0)

    # .9 * .3 - .2,  .9 * .1 - .3,  .9 * .5 - .1,  .9 * .5 - .5
    assert column(result, "raw_advantage") == pytest.approx([0.07, -0.21, 0.35, -0.05])


def test_each_row_is_bootstrapped_with_its_own_value_whatever_the_order_of_the_batch() -> None:
    trainer = a_trainer(window_length=4, boundary="bootstrap", lam=0.0, num_ignored_tail_tokens=0)
    short, long = a_row([5], prompt=PROMPT), a_row([4, 5, 8], prompt=PROMPT)

    result = trainer.step([short, long], policy_version=0)

    # V(5) - V(3);  V(4) - V(3), V(5) - V(4), V(8) - V(5)
    assert column(result, "raw_advantage") == pytest.approx([-0.1, 0.1, -0.2, 0.35])


def test_one_outlier_cannot_own_the_step() -> None:
    rows = [a_row([4], prompt=PROMPT, score=50.0), a_row([4], prompt=PROMPT, score=-50.0)]

    result = a_trainer(window_length=4).step(rows, policy_version=0)

    assert column(result, "raw_advantage") == pytest.approx([49.8, -50.2])
    assert column(result, "advantage") == [10.0, -10.0]


def of_length(length: int, **options: Any) -> Rollout:
    return a_row([4] * length, prompt=PROMPT, **options)


def test_overlong_answers_earn_less_on_a_slope_up_to_the_limit() -> None:
    trainer = a_trainer(window_length=18, overlong_buffer_length=6, overlong_penalty_factor=0.5)
    rows = [of_length(12, score=1.0), of_length(15, score=1.0), of_length(18, score=-1.0)]

    result = trainer.step(rows, policy_version=0)

    # The slope begins at 12 of 18 tokens and ends at half a point.
    returns = column(result, "return")
    assert [returns[11], returns[26], returns[44]] == pytest.approx([1.0, 0.75, -1.5])
    assert result.metrics["reward/mean"] == pytest.approx(1 / 3)
    assert result.metrics["reward/overlong_penalty"] == pytest.approx(-0.25)


def test_the_overlong_penalty_counts_the_whole_response_and_comes_once_at_its_end() -> None:
    trainer = a_trainer(window_length=9, overlong_buffer_length=6, lam=1.0)
    unfinished = trainer.step([of_length(9)], policy_version=0)
    row = of_length(18, window_start=9, score=1.0, earlier_values=list(unfinished.values[0]))

    finished = trainer.step([row], policy_version=0)

    assert unfinished.metrics["reward/overlong_penalty"] is None
    # All states but the first have value V(4) = .3; the score of 1 is lost to a full penalty of 1.
    assert column(unfinished, "raw_advantage") == pytest.approx([0.1] + [0.0] * 8)
    assert column(finished, "raw_advantage")[9:] == pytest.approx([-0.3] * 9)


def test_a_cut_near_the_limit_costs_nothing_yet() -> None:
    trainer = a_trainer(window_length=15, overlong_buffer_length=6, lam=1.0)

    result = trainer.step([of_length(15)], policy_version=0)

    assert column(result, "raw_advantage") == pytest.approx([0.1] + [0.0] * 14)


def test_by_default_length_costs_nothing() -> None:
    result = a_trainer(window_length=18).step([of_length(18, score=1.0)], policy_version=0)

    assert (column(result, "return")[-1], result.metrics["reward/overlong_penalty"]) == (1.0, 0.0)


@pytest.mark.parametrize(
    ("whitening", "whitened"),
    # Policy tokens: [.244 .16 . .] unfinished, [.327 .53 .2] finished; mean .2922, deviation .146681.
    [("none", 0.202), ("scale_only", 0.202 / 0.146681), ("full", (0.202 - 0.2922) / 0.146681)],
)
def test_the_mean_advantage_of_unfinished_rows_is_reported_before_and_after_whitening(
    whitening: str, whitened: float
) -> None:
    trainer = a_trainer(window_length=4, advantage_whitening=whitening)
    rows = [
        a_row(RESPONSE[:4], prompt=PROMPT),
        a_row(RESPONSE, prompt=PROMPT, window_start=4, score=1.0, earlier_values=VALUES[:4]),
    ]

    metrics = trainer.step(rows, policy_version=0).metrics

    assert metrics["critic/advantages/unfinished_mean"] == pytest.approx(0.202)
    assert metrics["critic/advantages/unfinished_mean_whitened"] == pytest.approx(whitened, rel=1e-4)
