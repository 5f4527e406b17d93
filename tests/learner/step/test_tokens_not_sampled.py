"""Tokens that the policy did not sample, such as a tool's output, are context: they train nothing and count nowhere."""

from array import array
from typing import Any

import pytest
import torch
from torch import Tensor

from learner.rollouts.rollout import Rollout
from learner.step.estimation.experience import Sampled, gather
from tests.learner import plain_formulas
from tests.learner.builders import a_row
from tests.learner.compared import LAM, LIMIT, a_trainer, assert_same_weights, sampled_by, values_of
from tests.learner.systems.test_compared_systems import ALGORITHMS
from tests.learner.tiny_models import (
    TinyTrainer,
    a_network,
    a_step_config,
    assert_gradients_equal,
    gradients_of,
    padded_logprobs,
    padded_values,
    step,
)

RESPONSE, NOT_SAMPLED = [9, 4, 7, 22, 23, 3, 1], (3, 4)  # a call of three tokens, its output, and the answer
IS_SAMPLED = torch.tensor([place not in NOT_SAMPLED for place in range(len(RESPONSE))])


def with_a_tool(**fields: Any) -> Rollout:
    """A right response with a tool's output in it, whose entries are as a generator fills them."""
    (row,) = sampled_by(a_network("policy"), [a_row(RESPONSE, score=1.0, not_sampled=NOT_SAMPLED, **fields)])
    for place in NOT_SAMPLED:
        row.rollout_logprobs[place] = 0.0
    return row


def sampled_values(row: Rollout) -> list[float]:
    (values,) = values_of(a_network("value"), [row])
    return [value for value, is_sampled in zip(values, row.is_sampled(), strict=True) if is_sampled]


def policy_gradient(row: Rollout) -> dict[str, Tensor]:
    """Of GAE over the sampled tokens alone: the value behind the call is the one that has read the tool's output."""
    network = a_network("policy")
    advantages = torch.tensor(plain_formulas.gae(sampled_values(row), 1.0, LAM))
    return gradients_of((-advantages * padded_logprobs(network, [row])[0][IS_SAMPLED]).mean(), network)


def value_gradient(row: Rollout, targets: list[float]) -> dict[str, Tensor]:
    network = a_network("value")
    predicted = padded_values(network, [row])[0][IS_SAMPLED]
    return gradients_of(0.5 * (predicted - torch.tensor(targets)).square().mean(), network)


@pytest.mark.parametrize("algorithm", ["tppo", "ppo", "ppo-ewma", "geppo"])
def test_advantages_pass_over_a_tools_output_as_if_it_took_no_time(algorithm: str) -> None:
    row, trainer = with_a_tool(), a_trainer(algorithm)

    step(trainer, [row])

    assert_gradients_equal(trainer.actor.gradients[0], policy_gradient(row))


def test_monte_carlo_returns_train_the_values_of_sampled_tokens_alone() -> None:
    row, trainer = with_a_tool(), a_trainer("tppo")

    step(trainer, [row])

    assert_gradients_equal(trainer.critic.gradients[0], value_gradient(row, [1.0] * 5))


@pytest.mark.parametrize("algorithm", ["ppo", "ppo-ewma", "geppo"])
@pytest.mark.parametrize("window_start", [0, 4, 7])
def test_lambda_returns_are_carried_back_over_a_tools_output(algorithm: str, window_start: int) -> None:
    (values,) = values_of(a_network("value"), [with_a_tool()])
    row = with_a_tool(window_start=window_start, earlier_values=values[:window_start])
    targets = plain_formulas.lambda_returns(sampled_values(row), 1.0, LAM)
    trainer = a_trainer(algorithm)

    step(trainer, [row])

    assert_gradients_equal(trainer.critic.gradients[0], value_gradient(row, targets))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_what_is_recorded_of_a_token_that_was_not_sampled_changes_no_weight_and_no_number(algorithm: str) -> None:
    options: dict[str, Any] = {"actor": {"ppo_epochs": 2}, "run": {"algorithm": algorithm, "mode": "streaming"}}
    plain, disguised = (a_trainer(algorithm, **options) for _ in range(2))
    row = with_a_tool()
    for place in NOT_SAMPLED:
        row.rollout_logprobs[place], row.token_versions[place] = -50.0, 10**6

    expected, found = step(plain, [with_a_tool()]), step(disguised, [row])

    assert_same_weights(plain, disguised)
    assert without_times(found) == without_times(expected)
    assert (found["tokens/window"], found["tokens/not_sampled"]) == (5, 2)
    assert (found["tokens/policy_mask"], found["tokens/value_mask"]) == (5, 5)
    assert (found["policy_lag/max"], found["tokens/too_old"]) == (0, 0)


def without_times(metrics: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in metrics.items() if not name.startswith("timing_s/")}


def test_the_ignored_tail_of_a_cut_counts_sampled_tokens() -> None:
    trainer = TinyTrainer(a_step_config(algorithm={"num_ignored_tail_tokens": 2}))

    metrics = step(trainer, [a_row([8, 2, 3, 11, 12, 30], not_sampled=[3, 5])])

    # Sampled are 0, 1, 2 and 4; the last two of them are the tail.
    assert (metrics["tokens/window"], metrics["tokens/policy_mask"]) == (4, 2)


def test_a_window_of_a_tools_output_alone_trains_nothing_and_keeps_its_values() -> None:
    trainer = TinyTrainer(a_step_config())
    before = {name: master.clone() for name, master in trainer.policy.weights.masters.items()}

    result = trainer.step([a_row([8, 2, 3, 11], window_start=2, not_sampled=[2, 3])], policy_version=0)

    assert all(torch.equal(before[name], master) for name, master in trainer.policy.weights.masters.items())
    assert len(result.values[0]) == 2  # those of the context: V is read there in the windows to come
    assert result.metrics["tokens/policy_mask"] == 0


def test_costs_of_cuts_are_those_of_responses_whose_borders_are_a_window_apart() -> None:
    regular = a_row([9] * 8, window_start=6, score=1.0, earlier_values=[0.5] * 6)
    short = a_row([9] * 8, window_start=6, score=1.0, earlier_values=[0.5] * 6)
    short.has_short_windows = True
    of_both, of_short = (step(TinyTrainer(a_step_config()), rows) for rows in ([regular, short], [short]))

    of_regular = step(TinyTrainer(a_step_config()), [regular])
    jump = "critic/border_value_jump/mean"
    assert of_both[jump] == pytest.approx(of_regular[jump], rel=1e-5)
    assert of_short["critic/border_value_jump/mean"] is None
    assert of_short["critic/bias_at_cut/mean"] is None


def test_rows_that_an_earlier_release_kept_have_sampled_every_token() -> None:
    columns = gather([a_row([9, 4, 7], score=1.0), a_row([8, 2])]).as_columns()
    for name in ("is_sampled", "has_full_windows"):
        del columns[name]

    restored = Sampled.of_columns(columns)

    assert [mask.tolist() for mask in restored.is_sampled] == [[True] * 3, [True] * 2]
    assert restored.has_full_windows.tolist() == [True, True]


def test_the_longest_window_of_a_batch_may_be_one_with_a_tools_output() -> None:
    rows = [a_row([9, 4, 7, 1], score=1.0), a_row([8, 2, 3, 11, 12, 30], not_sampled=[2, 3])]

    sampled = gather(rows)

    assert sampled.response_mask.tolist() == [[True] * 4 + [False] * 2, [True, True, False, False, True, True]]
    assert [sampled.window_length(index) for index in range(2)] == [4, 6]
    assert sampled.num_sampled().tolist() == [4, 4]
    assert array("b", rows[1].is_sampled()) == array("b", [1, 1, 0, 0, 1, 1])


def test_the_limit_of_a_response_counts_every_token() -> None:
    assert len(with_a_tool().response_tokens) <= LIMIT
    assert gather([with_a_tool()]).response_lengths.tolist() == [7]
