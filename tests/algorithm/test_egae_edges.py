"""Rows that a clean batch does not have: nothing generated, the length limit, a missing bootstrap value."""

import math
from typing import Any

import pytest
import torch

from learner.algorithm.egae import extended_gae

FIVE_TOKENS: dict[str, Any] = {
    "rewards": torch.zeros(1, 5),
    "values": torch.tensor([[0.1, 0.2, 0.3, 0.4, 0.5]]),
    "response_mask": torch.ones(1, 5, dtype=torch.bool),
    "gamma": 1.0,
    "gae_lambda": 1.0,
}


def test_an_empty_window_has_no_advantages() -> None:
    nothing = torch.zeros(2, 3, dtype=torch.bool)
    garbage = torch.full((2, 3), math.nan)

    advantages = extended_gae(garbage, garbage, nothing, torch.tensor([True, False]), gamma=1.0, gae_lambda=0.95)

    assert torch.equal(advantages, torch.zeros(2, 3))


def test_a_batch_of_no_time_steps_has_no_advantages() -> None:
    nothing = torch.zeros(2, 0)

    advantages = extended_gae(nothing, nothing, nothing.bool(), torch.tensor([True, False]), gamma=1.0, gae_lambda=0.95)

    assert advantages.shape == (2, 0)


def test_a_response_that_reached_its_limit_is_terminal_though_no_end_was_sampled() -> None:
    at_the_limit = extended_gae(**FIVE_TOKENS, is_finished=torch.tensor([True]))

    torch.testing.assert_close(at_the_limit, -FIVE_TOKENS["values"])


def test_discount_below_one_charges_the_last_token_before_a_cut_with_the_value_it_lost() -> None:
    advantages = extended_gae(**{**FIVE_TOKENS, "gamma": 0.9}, is_finished=torch.tensor([False]))

    # delta = (gamma - 1) V(s_{l-1}) = -0.1 * 0.5
    assert advantages[0, -1].item() == pytest.approx(-0.05)


def test_a_reward_on_the_last_token_before_a_cut_is_kept() -> None:
    rewards = torch.tensor([[0.0, 0.0, 0.0, 0.0, -0.25]])

    advantages = extended_gae(**{**FIVE_TOKENS, "rewards": rewards}, is_finished=torch.tensor([False]))

    torch.testing.assert_close(advantages, torch.tensor([[0.15, 0.05, -0.05, -0.15, -0.25]]))


def test_a_window_may_begin_anywhere_in_its_row() -> None:
    mask = torch.tensor([[False, False, True, True, True]])

    advantages = extended_gae(**{**FIVE_TOKENS, "response_mask": mask}, is_finished=torch.tensor([False]))

    torch.testing.assert_close(advantages, torch.tensor([[0.0, 0.0, 0.2, 0.1, 0.0]]))


def test_bootstrap_values_of_finished_rows_are_not_used() -> None:
    advantages = extended_gae(
        **FIVE_TOKENS,
        is_finished=torch.tensor([True]),
        boundary="bootstrap",
        bootstrap_values=torch.tensor([math.nan]),
    )

    torch.testing.assert_close(advantages, -FIVE_TOKENS["values"])


def test_bootstrap_without_values_is_refused() -> None:
    with pytest.raises(ValueError, match="bootstrap_values"):
        extended_gae(**FIVE_TOKENS, is_finished=torch.tensor([False]), boundary="bootstrap")


def test_an_unknown_boundary_is_refused() -> None:
    with pytest.raises(ValueError, match="boundary must be"):
        extended_gae(**{**FIVE_TOKENS, "boundary": "zero"}, is_finished=torch.tensor([False]))


def test_lambda_in_double_precision_leaves_advantages_in_single_precision() -> None:
    advantages = extended_gae(
        **{**FIVE_TOKENS, "gae_lambda": torch.tensor([0.95], dtype=torch.float64)}, is_finished=torch.tensor([False])
    )

    assert advantages.dtype == torch.float32


def test_advantages_carry_no_gradient_to_the_value_model() -> None:
    values = torch.zeros(1, 5, requires_grad=True)

    advantages = extended_gae(**{**FIVE_TOKENS, "values": values}, is_finished=torch.tensor([False]))

    assert not advantages.requires_grad
