import math
from typing import Any

import pytest
import torch
from hypothesis import given

from learner.algorithm.geppo import (
    adapted_learning_rate,
    estimated_total_variation,
    geppo_policy_loss,
    reuse_clip_range,
    vtrace_advantages,
)
from tests.algorithm import reference
from tests.algorithm.gradients import gradient
from tests.algorithm.strategies import Row, as_batch, property_test, rows, unit_interval

# pi_old / pi_rollout = .6 / .4 = 1.5, so a clip range of .1 allows ratios in [1.4, 1.6]; ratios 2 and 1 are outside.
NEW = torch.tensor([0.8, 0.4, 0.8, 0.4, math.nan], dtype=torch.float64).log()
OLD = torch.tensor([0.6, 0.6, 0.6, 0.6, math.nan], dtype=torch.float64).log()
ROLLOUT = torch.tensor([0.4, 0.4, 0.4, 0.4, math.nan], dtype=torch.float64).log()
ADVANTAGES = torch.tensor([1.0, 1.0, -1.0, -1.0, math.nan], dtype=torch.float64)
MASK = torch.tensor([True, True, True, True, False])


def test_the_clip_sits_around_the_current_policy_seen_from_the_sampling_one() -> None:
    result = geppo_policy_loss(NEW, OLD, ADVANTAGES, MASK, rollout_logprobs=ROLLOUT, clip_range=0.1)

    # -1.6 (clipped), -1, +2, +1.4 (clipped)
    assert result.loss.item() == pytest.approx(0.8 / 4)
    assert result.clip_fraction.item() == pytest.approx(0.5)
    assert result.importance_weight_mean.item() == pytest.approx(1.5)


def test_gradient_vanishes_on_clipped_tokens_and_in_the_padding() -> None:
    logprobs = NEW.clone().requires_grad_()

    loss = geppo_policy_loss(logprobs, OLD, ADVANTAGES, MASK, rollout_logprobs=ROLLOUT, clip_range=0.1).loss

    assert gradient(loss, of=logprobs).tolist() == pytest.approx([0.0, -1 / 4, 2 / 4, 0.0, 0.0])


def test_total_variation_is_half_the_mean_distance_of_the_ratios() -> None:
    # |2 - 1.5| = |1 - 1.5| = 1/2
    assert estimated_total_variation(NEW, OLD, ROLLOUT, MASK).item() == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("policy_weights", "expected"),
    [
        ([1.0], 0.2),
        ([1.0, 1.0, 1.0], 0.1),
        ([0.5, 0.25, 0.25], 0.2 / 1.75),
        ([2.0, 1.0, 1.0], 0.2 / 1.75),
        ([0.0], 0.2),
    ],
)
def test_clip_range_shrinks_with_the_mean_number_of_uses(policy_weights: list[float], expected: float) -> None:
    assert reuse_clip_range(0.2, policy_weights=policy_weights) == pytest.approx(expected)


@pytest.mark.parametrize(("total_variation", "expected"), [(0.11, 1 / 1.03), (0.10, 1.0), (0.0, 1.0)])
def test_learning_rate_falls_after_a_large_move_and_never_rises(total_variation: float, expected: float) -> None:
    assert adapted_learning_rate(1.0, total_variation=total_variation, clip_range=0.2) == pytest.approx(expected)


def test_corrected_advantages_shrink_what_the_current_policy_would_reach_less_often() -> None:
    weights: dict[str, Any] = {
        "old_logprobs": torch.tensor([[0.5, 0.2, 0.8, math.nan]]).log(),
        "rollout_logprobs": torch.tensor([[0.1, 0.4, 0.4, math.nan]]).log(),
    }
    rewards, mask = torch.tensor([[0.0, 0.0, 1.0, math.nan]]), torch.tensor([[True, True, True, False]])

    advantages = vtrace_advantages(
        rewards, rewards * 0, mask, torch.tensor([True]), **weights, gamma=1.0, gae_lambda=0.5
    )

    # weights 5, 1/2 and 2, the last truncated at 1: A_2 = 1, A_1 = 1/2 * 1 * A_2, A_0 = 1/2 * 1/2 * A_1
    assert advantages[0].tolist() == pytest.approx([1 / 8, 1 / 2, 1.0, 0.0])


@property_test
@given(rows(min_length=1), unit_interval, unit_interval)
def test_on_policy_they_are_the_advantages_of_the_window(row: Row, gamma: float, gae_lambda: float) -> None:
    batch = as_batch([row])

    advantages = vtrace_advantages(
        batch.rewards,
        batch.values,
        batch.response_mask,
        batch.is_finished,
        old_logprobs=batch.values,
        rollout_logprobs=batch.values,
        gamma=gamma,
        gae_lambda=gae_lambda,
    )

    expected = reference.advantages_of_row(
        row.rewards, row.values, is_finished=row.is_finished, gamma=gamma, gae_lambda=gae_lambda
    )
    assert advantages[0, : len(expected)].tolist() == pytest.approx(expected, abs=1e-9)
