import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from learner.algorithm.losses import policy_loss
from learner.algorithm.ppo_ewma import decay_from_center_of_mass, ppo_ewma_policy_loss, update_weight_average
from tests.algorithm.gradients import gradient
from tests.algorithm.strategies import property_test, small_floats

CLIP: dict[str, Any] = {"clip_low": 0.2, "clip_high": 0.2}


def test_average_of_weights_is_corrected_for_its_short_history() -> None:
    average, total_weight, history = torch.tensor([1.0], dtype=torch.float64), 1.0, []
    for weight in (2.0, 3.0, 5.0):
        parameter = torch.tensor([weight], dtype=torch.float64)
        total_weight = update_weight_average([average], [parameter], total_weight=total_weight, decay=0.75)
        history.append(average.item())

    # (3/4 * 1 + 2) / (7/4),  (9/16 + 3/4 * 2 + 3) / (37/16),  (27/64 + 9/16 * 2 + 3/4 * 3 + 5) / (175/64)
    assert history == pytest.approx([11 / 7, 81 / 37, 563 / 175], abs=1e-12)  # 1.5714 2.1892 3.2171
    assert total_weight == 175 / 64


def test_weights_that_do_not_move_are_their_own_average() -> None:
    average = torch.tensor([0.3])

    update_weight_average([average], [torch.tensor([0.3])], total_weight=2.0, decay=0.9)

    assert average.item() == pytest.approx(0.3)


def test_average_and_parameters_must_be_as_many() -> None:
    with pytest.raises(ValueError, match="shorter"):
        update_weight_average([torch.zeros(1)], [], total_weight=1.0, decay=0.9)


def test_a_center_of_mass_of_three_updates_decays_by_three_quarters() -> None:
    assert decay_from_center_of_mass(3.0) == 0.75


# pi .6, pi_proximal .4, pi_rollout .5: ratio 1.2; 1.5 to the centre is clipped to 1.2, which is 1.2 * .4 / .5 = .96.
@pytest.mark.parametrize(("advantage", "expected"), [(1.0, -0.96), (-1.0, 1.2)])
def test_the_clip_bounds_the_distance_to_the_average_policy(advantage: float, expected: float) -> None:
    result = ppo_ewma_policy_loss(
        torch.tensor([0.6]).log(),
        torch.tensor([0.4]).log(),
        torch.tensor([advantage]),
        torch.tensor([True]),
        rollout_logprobs=torch.tensor([0.5]).log(),
        **CLIP,
    )

    assert result.loss.item() == pytest.approx(expected)
    assert result.importance_weight_mean.item() == pytest.approx(0.8)
    assert result.approx_kl.item() == pytest.approx(-math.log(1.5))


# Centre .8; 1.5 to it is clipped to 1.28 and .5 to .8: 1.28 * .8 and .8 * .8.
@pytest.mark.parametrize(("probability", "advantage", "expected"), [(0.6, 1.0, -1.024), (0.2, -1.0, 0.64)])
def test_the_clip_may_reach_further_up_than_down(probability: float, advantage: float, expected: float) -> None:
    result = ppo_ewma_policy_loss(
        torch.tensor([probability]).log(),
        torch.tensor([0.4]).log(),
        torch.tensor([advantage]),
        torch.tensor([True]),
        rollout_logprobs=torch.tensor([0.5]).log(),
        clip_low=0.2,
        clip_high=0.28,
    )

    assert result.loss.item() == pytest.approx(expected)


def test_rounding_clips_no_token_within_the_bounds() -> None:
    logprobs = -torch.linspace(0.01, 9.0, 500)

    result = ppo_ewma_policy_loss(
        logprobs,
        logprobs - 0.1,  # a ratio of 1.105, inside [0.8, 1.2]; in float32 the two terms' sums round apart
        torch.ones_like(logprobs),
        torch.ones_like(logprobs, dtype=torch.bool),
        rollout_logprobs=logprobs.flip(0),
        **CLIP,
    )

    assert result.clip_fraction == 0.0


def test_a_ratio_above_the_cap_is_capped_and_keeps_its_gradient() -> None:
    logprobs = torch.tensor([0.5], dtype=torch.float64).log().requires_grad_()

    result = ppo_ewma_policy_loss(
        logprobs,
        logprobs.detach(),
        torch.ones(1, dtype=torch.float64),
        torch.tensor([True]),
        rollout_logprobs=torch.tensor([0.001], dtype=torch.float64).log(),
        **CLIP,
    )

    assert result.loss.item() == pytest.approx(-100.0)
    assert gradient(result.loss, of=logprobs).item() == pytest.approx(-100.0)


def test_padding_reaches_neither_the_loss_nor_its_gradient() -> None:
    logprobs = torch.tensor([-1.0, math.nan], requires_grad=True)
    garbage = logprobs.detach()

    result = ppo_ewma_policy_loss(
        logprobs, garbage, torch.tensor([2.0, math.nan]), ~garbage.isnan(), rollout_logprobs=garbage, **CLIP
    )

    assert result.loss.item() == pytest.approx(-2.0)
    assert gradient(result.loss, of=logprobs).tolist() == pytest.approx([-2.0, 0.0])


@property_test
@given(st.lists(st.tuples(small_floats, small_floats, small_floats), min_size=1, max_size=8))
def test_with_the_sampling_policy_as_its_centre_it_is_ppo(tokens: list[tuple[float, float, float]]) -> None:
    logprobs, old_logprobs, advantages = torch.tensor(tokens, dtype=torch.float64).unbind(1)
    mask = torch.ones_like(logprobs, dtype=torch.bool)

    ewma = ppo_ewma_policy_loss(logprobs, old_logprobs, advantages, mask, rollout_logprobs=old_logprobs, **CLIP)

    ppo = policy_loss(logprobs, old_logprobs, advantages, mask, **CLIP, dual_clip=None)
    assert ewma.loss.item() == pytest.approx(ppo.loss.item(), abs=1e-9)
    assert ewma.clip_fraction == ppo.clip_fraction
