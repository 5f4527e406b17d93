import math

import pytest
import torch

from learner.algorithm.importance import bounded_log_ratio, effective_sample_size, importance_weights, masked

# Weights 1/2, 1 and 4; the last place is padding.
OLD = torch.tensor([0.1, 0.3, 0.8, math.nan]).log()
ROLLOUT = torch.tensor([0.2, 0.3, 0.2, math.nan]).log()
MASK = torch.tensor([True, True, True, False])


def test_weights_are_probability_ratios_and_one_in_the_padding() -> None:
    torch.testing.assert_close(importance_weights(OLD, ROLLOUT, MASK), torch.tensor([0.5, 1.0, 4.0, 1.0]))


def test_weights_are_truncated_at_the_cap() -> None:
    torch.testing.assert_close(importance_weights(OLD, ROLLOUT, MASK, cap=2.0), torch.tensor([0.5, 1.0, 2.0, 1.0]))


def test_weights_above_the_cap_are_masked_and_those_at_it_are_not() -> None:
    weights = importance_weights(OLD, ROLLOUT, MASK, cap=1.0, limit=masked)

    torch.testing.assert_close(weights, torch.tensor([0.5, 1.0, 0.0, 1.0]))


def test_weights_take_no_gradient() -> None:
    weights = importance_weights(OLD.clone().requires_grad_(), ROLLOUT, MASK)

    assert not weights.requires_grad


@pytest.mark.parametrize(("old", "rollout"), [(0.0, -1e4), (-1e4, 0.0), (0.0, -math.inf), (-math.inf, 0.0)])
def test_weights_stay_finite_when_the_policies_have_nothing_in_common(old: float, rollout: float) -> None:
    weight = importance_weights(torch.tensor([old]), torch.tensor([rollout]), torch.tensor([True]))

    assert weight.isfinite().all()


@pytest.mark.parametrize(("difference", "bounded"), [(15.0, 15.0), (30.0, 20.0), (-15.0, -15.0), (-30.0, -20.0)])
def test_log_ratios_are_limited_to_twenty_on_both_sides(difference: float, bounded: float) -> None:
    ratio = bounded_log_ratio(torch.tensor([difference - 1.0]), torch.tensor([-1.0]), torch.tensor([True]))

    assert ratio.item() == bounded


def test_effective_sample_size_is_the_share_of_tokens_that_the_weights_leave() -> None:
    weights = torch.tensor([1.0, 1.0, 4.0, math.nan])

    # (1 + 1 + 4)^2 / (3 * (1 + 1 + 16)) = 36 / 54
    assert effective_sample_size(weights, MASK).item() == pytest.approx(2 / 3)


def test_equal_weights_leave_all_tokens_in_effect() -> None:
    assert effective_sample_size(torch.full((4,), 0.3), MASK).item() == pytest.approx(1.0)


def test_no_tokens_have_no_effective_sample() -> None:
    assert effective_sample_size(torch.ones(4), torch.zeros(4, dtype=torch.bool)) == 0.0
