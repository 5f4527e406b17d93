"""The gradient that a step gives the value model, against a plain computation on padded rows."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from learner.rollouts.rollout import Rollout
from tests.learner.builders import a_row
from tests.learner.tiny_models import (
    Gradients,
    TinyTrainer,
    a_network,
    a_step_config,
    assert_gradients_equal,
    gradients_of,
    padded_values,
    some_rows,
    step,
    weights_of,
)


def first_gradients(rows: Sequence[Rollout], **critic: Any) -> Gradients:
    trainer = TinyTrainer(a_step_config(critic={"lr": 1e-3, "warmup_steps": 0} | critic))
    step(trainer, rows)
    return trainer.critic.gradients[0]


def squared_errors(network: Any, rows: Sequence[Rollout]) -> list[Tensor]:
    """(V - score)^2 of each response token; with gamma = 1 the score is the return everywhere."""
    return [(values - (row.score or 0.0)) ** 2 for values, row in zip(padded_values(network, rows), rows, strict=True)]


def finished_rows() -> list[Rollout]:
    """The right one has 4 tokens, the wrong one 9; earlier values lie on their way to the score, so no clip decides."""
    rows = [row for row in some_rows() if row.is_finished]
    of_wrong = padded_values(a_network("value"), rows)[1][:6].tolist()
    rows[1].values = type(rows[1].values)("f", of_wrong)
    return rows


def test_finished_rows_weigh_alike_whatever_their_lengths() -> None:
    network = a_network("value")
    of_right, of_wrong = squared_errors(network, finished_rows())
    loss = 0.5 * (of_right.mean() + of_wrong.mean()) / 2

    assert_gradients_equal(first_gradients(finished_rows()), gradients_of(loss, network))


@pytest.mark.parametrize("max_tokens", [16, 4096])
def test_the_reported_loss_is_the_whole_mini_batchs(max_tokens: int) -> None:
    of_right, of_wrong = squared_errors(a_network("value"), finished_rows())
    critic = {"lr": 1e-3, "warmup_steps": 0, "max_tokens_per_microbatch": max_tokens}

    metrics = step(TinyTrainer(a_step_config(critic=critic)), finished_rows())

    assert metrics["critic/vf_loss"] == pytest.approx((of_right.mean() + of_wrong.mean()).item() / 4, rel=1e-5)


def test_with_token_mean_their_tokens_weigh_alike() -> None:
    network = a_network("value")
    loss = 0.5 * torch.cat(squared_errors(network, finished_rows())).mean()

    actual = first_gradients(finished_rows(), loss_aggregation="token_mean")

    assert_gradients_equal(actual, gradients_of(loss, network))


def test_rows_that_were_cut_train_no_value() -> None:
    cut = [row for row in some_rows() if not row.is_finished]

    assert_gradients_equal(first_gradients([*finished_rows(), *cut]), first_gradients(finished_rows()))


@pytest.mark.parametrize("max_tokens", [16, 64])
def test_a_mini_batchs_gradient_does_not_depend_on_its_micro_batches(max_tokens: int) -> None:
    actual = first_gradients(finished_rows(), max_tokens_per_microbatch=max_tokens)

    assert_gradients_equal(actual, first_gradients(finished_rows(), max_tokens_per_microbatch=4096))


def a_row_with_earlier_values(offset: float) -> Rollout:
    """Two windows; the first one's values were predicted `offset` above what the value model says now."""
    row = a_row([3, 3, 17, 21, 9, 14, 5, 29, 1], window_start=6, score=10.0)
    now = padded_values(a_network("value"), [row])[0][:6]
    row.values = type(row.values)("f", (now + offset).tolist())
    return row


def test_a_value_that_moved_up_past_the_clip_around_its_stored_value_has_no_gradient() -> None:
    # Values 2 above the stored ones are held at stored + 0.6: further from the return of 10, so the larger error. The
    # three tokens of the current window have the present values as their old ones, and go on.
    row = a_row_with_earlier_values(-2.0)
    network = a_network("value")
    (errors,) = squared_errors(network, [row])

    assert_gradients_equal(first_gradients([row]), gradients_of(0.5 * errors[6:].sum() / 9, network))


def test_a_value_that_moved_away_from_its_return_past_the_clip_keeps_its_gradient() -> None:
    # Values 2 below the stored ones would be held at stored - 0.5: nearer to the return of 10, so the smaller error.
    row = a_row_with_earlier_values(2.0)
    network = a_network("value")
    (errors,) = squared_errors(network, [row])

    assert_gradients_equal(first_gradients([row]), gradients_of(0.5 * errors.mean(), network))


@pytest.mark.parametrize("unset", [("cliprange_value_high",), ("cliprange_value_low", "cliprange_value_high")])
def test_a_clip_range_of_none_clips_nothing_on_its_side(unset: tuple[str, ...]) -> None:
    network = a_network("value")
    row = a_row_with_earlier_values(-2.0)
    (errors,) = squared_errors(network, [row])

    actual = first_gradients([row], **dict.fromkeys(unset, "none"))

    assert_gradients_equal(actual, gradients_of(0.5 * errors.mean(), network))


def test_returns_are_discounted_by_the_distance_to_the_end() -> None:
    network = a_network("value")
    row = a_row([9, 4, 7, 1], score=2.0)
    returns = torch.tensor([0.25, 0.5, 1.0, 2.0])
    loss = 0.5 * ((padded_values(network, [row])[0] - returns) ** 2).mean()
    trainer = TinyTrainer(a_step_config(algorithm={"gamma": 0.5}))

    step(trainer, [row])

    assert_gradients_equal(trainer.critic.gradients[0], gradients_of(loss, network))


def test_a_penalty_for_length_is_part_of_what_the_value_model_learns() -> None:
    network = a_network("value")
    row = a_row([9, 4, 7, 1], score=2.0)
    # The slope begins at 2 of 18 tokens, and the response has gone 2 of its 16.
    loss = 0.5 * ((padded_values(network, [row])[0] - (2.0 - 2 / 16)) ** 2).mean()
    trainer = TinyTrainer(a_step_config(algorithm={"overlong_buffer_length": 16}))

    step(trainer, [row])

    assert_gradients_equal(trainer.critic.gradients[0], gradients_of(loss, network))


def test_without_a_finished_row_the_value_model_its_moments_and_its_schedule_stay_untouched() -> None:
    trainer = TinyTrainer(a_step_config(critic={"lr": 1e-3, "weight_decay": 0.1, "warmup_steps": 0}))
    step(trainer, some_rows())
    weights = weights_of(trainer.value_model.network)
    moments = [tensor.clone() for state in trainer.critic.adamw.state.values() for tensor in state.values()]

    metrics = step(trainer, [row for row in some_rows() if not row.is_finished], policy_version=1)

    after = [tensor for state in trainer.critic.adamw.state.values() for tensor in state.values()]
    assert all(torch.equal(tensor, weights[name]) for name, tensor in weights_of(trainer.value_model.network).items())
    assert all(torch.equal(tensor, moment) for tensor, moment in zip(after, moments, strict=True))
    assert trainer.critic.num_updates == 1
    assert "critic/vf_loss" not in metrics


def test_a_finished_response_without_a_token_is_left_out() -> None:
    empty = a_row([], score=1.0)

    assert_gradients_equal(first_gradients([*finished_rows(), empty]), first_gradients(finished_rows()))


@pytest.mark.parametrize("max_tokens", [16, 4096])
@pytest.mark.parametrize("run", [{}, {"algorithm": "ppo", "window_length": 18}], ids=["tppo", "ppo"])
def test_values_that_begin_the_training_are_those_of_a_pass_of_their_own(max_tokens: int, run: dict[str, Any]) -> None:
    """A model that takes turns on its device predicts in passes without gradient."""
    sections: dict[str, Any] = {
        "run": {"mode": "lockstep", "max_response_length": 18, **run},
        "algorithm": {"lam": 0.9},
        "critic": {"lr": 1e-3, "max_tokens_per_microbatch": max_tokens, "ppo_mini_batches": 2, "warmup_steps": 0},
    }
    begins, predicts = TinyTrainer(a_step_config(**sections)), TinyTrainer(a_step_config(**sections))
    predicts.value_model.take_turn = lambda: None

    results = [one.step(some_rows(), policy_version=0) for one in (begins, predicts)]

    assert (begins.value_model.keeps_passes, predicts.value_model.keeps_passes) == (True, False)
    for one, other in zip(results[0].values, results[1].values, strict=True):
        assert list(one) == pytest.approx(list(other), abs=1e-5)
    for first, second in zip(begins.critic.gradients, predicts.critic.gradients, strict=True):
        assert_gradients_equal(first, second, tolerance=1e-5)
