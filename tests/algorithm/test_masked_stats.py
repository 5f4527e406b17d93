import math
import statistics
from fractions import Fraction

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from learner.algorithm.egae import extended_gae
from learner.algorithm.masked_stats import (
    clamp_advantages,
    explained_variance,
    masked_mean,
    masked_variance,
    scale_only,
    whiten_full,
)
from learner.algorithm.token_filter import policy_mask
from tests.algorithm.strategies import property_test, small_floats

NAN = math.nan

# Four rows, gamma 1, lambda 1/2, one tail token ignored; advantages worked out by hand, in eighths:
#   finished, +1:  delta  0  0 0  8             A  1  2 4  8
#   cut:           delta  4  0 4  0             A  5  2 4 (0)
#   finished, -1:  delta -4 -4 -4               A -7 -6 -4
#   cut:           delta  0 -2 4  0             A  0  0 4 (0)
# 13 tokens, sum 13/8, mean 1/8, squared distances 234/64, variance 234/64/12 = 39/128.
REWARDS = torch.tensor([[0, 0, 0, 1], [0, 0, 0, 0], [0, 0, -1, NAN], [0, 0, 0, 0]], dtype=torch.float64)
VALUES = torch.tensor([[0, 0, 0, 0], [0, 0.5, 0.5, 1], [0.5, 0, -0.5, NAN], [0.25, 0.25, 0, 0.5]], dtype=torch.float64)
RESPONSE = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 1, 1]]).bool()
IS_FINISHED = torch.tensor([True, False, True, False])
COUNTED_EIGHTHS = [1, 2, 4, 8, 5, 2, 4, -7, -6, -4, 0, 0, 4]
MEAN, VARIANCE = Fraction(1, 8), Fraction(39, 128)


def batch_of_four() -> tuple[torch.Tensor, torch.Tensor]:
    advantages = extended_gae(REWARDS, VALUES, RESPONSE, IS_FINISHED, gamma=1.0, gae_lambda=0.5)
    return advantages, policy_mask(RESPONSE, IS_FINISHED, num_ignored_tail_tokens=1)


def test_mean_and_variance_are_taken_over_the_tokens_that_train_the_policy() -> None:
    advantages, mask = batch_of_four()

    assert mask.sum() == 13
    assert (8 * advantages[mask]).tolist() == COUNTED_EIGHTHS
    assert masked_mean(advantages, mask).item() == float(MEAN)
    assert masked_variance(advantages, mask).item() == pytest.approx(float(VARIANCE), abs=1e-12)


def test_whitening_subtracts_the_mean_and_divides_by_the_deviation() -> None:
    advantages, mask = batch_of_four()

    whitened = whiten_full(advantages, mask)

    deviation = math.sqrt(VARIANCE + Fraction(1, 10**8))
    assert whitened[mask].tolist() == pytest.approx([(a - 1) / 8 / deviation for a in COUNTED_EIGHTHS], abs=1e-12)
    assert whitened[~mask].tolist() == [0.0, 0.0, 0.0]


def test_scaling_keeps_the_sign_of_every_advantage() -> None:
    advantages, mask = batch_of_four()

    scaled = scale_only(advantages, mask)

    deviation = math.sqrt(VARIANCE + Fraction(1, 10**8))
    assert scaled[mask].tolist() == pytest.approx([a / 8 / deviation for a in COUNTED_EIGHTHS], abs=1e-12)
    assert scaled[~mask].tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("normalize", [whiten_full, scale_only])
def test_one_token_has_no_deviation_and_stays_as_it_is(normalize: object) -> None:
    assert callable(normalize)

    normalized = normalize(torch.tensor([[0.7, NAN]]), torch.tensor([[True, False]]))

    assert torch.equal(normalized, torch.tensor([[0.7, 0.0]]))


def test_equal_advantages_are_whitened_to_zero() -> None:
    whitened = whiten_full(torch.full((1, 3), 0.5), torch.ones(1, 3, dtype=torch.bool))

    assert torch.equal(whitened, torch.zeros(1, 3))


def test_an_outlier_is_clamped_on_either_side() -> None:
    clamped = clamp_advantages(torch.tensor([-11.0, -10.0, 3.0, 1e9]))

    assert clamped.tolist() == [-10.0, -10.0, 3.0, 10.0]


def test_the_mean_of_nothing_is_zero_and_its_variance_is_not_defined() -> None:
    x, nothing = torch.tensor([NAN, 1.0]), torch.tensor([False, False])

    assert masked_mean(x, nothing) == 0.0
    assert masked_variance(x, nothing).isnan()


@property_test
@given(st.lists(small_floats, min_size=2, max_size=20))
def test_whitened_advantages_have_mean_zero_and_variance_one(numbers: list[float]) -> None:
    assume(statistics.variance(numbers) > 1e-4)
    advantages = torch.tensor([*numbers, NAN], dtype=torch.float64)

    whitened = whiten_full(advantages, ~advantages.isnan())[:-1].tolist()

    assert statistics.fmean(whitened) == pytest.approx(0.0, abs=1e-9)
    assert statistics.variance(whitened) == pytest.approx(1.0, abs=1e-3)


def test_explained_variance_is_one_minus_the_share_that_is_left() -> None:
    returns = torch.tensor([1.0, -1.0, 1.0, -1.0, NAN])
    values = torch.tensor([0.5, -0.5, 0.5, -0.5, NAN])

    # What is left is +-1/2: a quarter of the variance of +-1.
    assert explained_variance(values, returns, ~returns.isnan()).item() == pytest.approx(0.75)


def test_explained_variance_forgives_a_constant_offset() -> None:
    returns = torch.tensor([1.0, -1.0, 1.0])

    assert explained_variance(returns + 5.0, returns, torch.ones(3, dtype=torch.bool)).item() == pytest.approx(1.0)


@pytest.mark.parametrize("counted", [[True, True, False], [True, False, False], [False, False, False]])
def test_explained_variance_is_not_defined_without_varying_returns(counted: list[bool]) -> None:
    returns = torch.tensor([1.0, 1.0, -1.0])

    assert explained_variance(torch.tensor([0.0, 1.0, 2.0]), returns, torch.tensor(counted)).isnan()
