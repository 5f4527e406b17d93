import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from learner.algorithm.diagnostics import (
    bias_at_cut,
    border_value_jump,
    explained_variance_by_cut,
    explained_variance_by_position,
    largest_row_share,
    probability_gap,
    top_percent_weight,
    window_advantages,
)
from tests.algorithm import reference
from tests.algorithm.strategies import Row, as_batch, property_test, rows

NAN = math.nan

# Two rows of return +-1, predicted right and not at all; the last column is padding.
RETURNS = torch.tensor([[1.0, -1.0, 1.0, -1.0, NAN], [1.0, -1.0, 1.0, -1.0, NAN]])
VALUES = torch.tensor([[1.0, -1.0, 1.0, -1.0, NAN], [0.5, 0.5, 0.5, 0.5, NAN]])
MASK = ~RETURNS.isnan()


def test_explained_variance_is_separate_for_windows_that_ended_a_response_and_that_were_cut() -> None:
    result = explained_variance_by_cut(VALUES, RETURNS, MASK, is_cut=torch.tensor([[False], [True]]))

    assert result.finished.item() == pytest.approx(1.0)
    assert result.cut.item() == pytest.approx(0.0)


def test_without_cut_windows_their_explained_variance_is_not_defined() -> None:
    result = explained_variance_by_cut(VALUES, RETURNS, MASK, is_cut=torch.zeros_like(MASK))

    assert result.cut.isnan()


def test_explained_variance_by_position_changes_bucket_at_each_boundary() -> None:
    returns = torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0, -1.0])
    values = torch.tensor([1.0, -1.0, 0.5, -0.5, 0.0, 0.0])
    positions = torch.tensor([0, 1, 2, 3, 8, 9])

    result = explained_variance_by_position(
        values, returns, torch.ones(6, dtype=torch.bool), positions=positions, boundaries=[2, 4]
    )

    assert result.tolist() == pytest.approx([1.0, 0.75, 0.0])


# A response of seven tokens, score 1, lambda .9, in windows of four: see case C09 of data/egae_cases.json.
SEVEN_VALUES = torch.tensor([[0.2, 0.3, 0.1, 0.5, 0.6, 0.45, 0.8, NAN]], dtype=torch.float64)
SEVEN_REWARDS = torch.tensor([[0, 0, 0, 0, 0, 0, 1, NAN]], dtype=torch.float64)
SEVEN = ~SEVEN_VALUES.isnan()


def test_windows_side_by_side_have_the_advantages_of_each_step() -> None:
    advantages = window_advantages(SEVEN_REWARDS, SEVEN_VALUES, SEVEN, window_length=4, gamma=1.0, gae_lambda=0.9)

    assert advantages[0].tolist() == pytest.approx([0.244, 0.16, 0.4, 0.0, 0.327, 0.53, 0.2, 0.0])


def test_bias_at_the_cut_fades_with_the_distance_to_it() -> None:
    bias = bias_at_cut(SEVEN_REWARDS, SEVEN_VALUES, SEVEN, window_length=4, gamma=1.0, gae_lambda=0.9)

    # what the cut hides is the whole response's advantage there, .3943, discounted by .9 a token
    expected = [-(0.9**3) * 0.3943, -(0.9**2) * 0.3943, -0.9 * 0.3943, -0.3943, 0.0, 0.0, 0.0, 0.0]
    assert bias[0].tolist() == pytest.approx(expected, abs=1e-9)


def test_where_the_next_windows_value_is_known_the_cut_hides_only_what_lies_behind_it() -> None:
    bias = bias_at_cut(
        SEVEN_REWARDS, SEVEN_VALUES, SEVEN, window_length=4, gamma=1.0, gae_lambda=0.9, boundary="bootstrap"
    )

    # the jump from .5 to .6 at the cut is seen; the advantage behind it, .327, is not
    expected = [-(0.9**4) * 0.327, -(0.9**3) * 0.327, -(0.9**2) * 0.327, -0.9 * 0.327, 0.0, 0.0, 0.0, 0.0]
    assert bias[0].tolist() == pytest.approx(expected, abs=1e-9)


def test_each_row_may_have_its_own_lambda() -> None:
    twice = (SEVEN_REWARDS.repeat(2, 1), SEVEN_VALUES.repeat(2, 1), SEVEN.repeat(2, 1))

    bias = bias_at_cut(*twice, window_length=4, gamma=1.0, gae_lambda=torch.tensor([0.0, 0.9]))

    # without lambda only the jump from .5 to .6 is hidden, from the window's last token
    assert bias[0].tolist() == pytest.approx([0.0, 0.0, 0.0, -0.1, 0.0, 0.0, 0.0, 0.0])
    assert bias[1, 3].item() == pytest.approx(-0.3943)


@property_test
@given(st.lists(rows(is_finished=True), min_size=1, max_size=3), st.integers(1, 9))
def test_windows_of_any_length_are_estimated_each_by_itself(batch_rows: list[Row], window_length: int) -> None:
    batch = as_batch(batch_rows)

    advantages = window_advantages(
        batch.rewards, batch.values, batch.response_mask, window_length=window_length, gamma=0.9, gae_lambda=0.8
    )

    for row, estimated in zip(batch_rows, advantages.tolist(), strict=True):
        expected: list[float] = []
        for start in range(0, len(row.values), window_length):
            window = slice(start, start + window_length)
            expected += reference.advantages_of_row(
                row.rewards[window],
                row.values[window],
                is_finished=start + window_length >= len(row.values),
                gamma=0.9,
                gae_lambda=0.8,
            )
        assert estimated[: len(expected)] == pytest.approx(expected, abs=1e-9)


def test_value_jumps_are_measured_at_window_borders_inside_the_responses() -> None:
    values = torch.tensor([[0.0, 0.5, 0.25, 0.25, 1.0, NAN], [0.0, 1.0, 0.5, NAN, NAN, NAN]])

    jump = border_value_jump(values, ~values.isnan(), window_length=2)

    # .25 - .5, 1 - .25 and .5 - 1
    assert jump.mean.item() == pytest.approx(0.0)
    assert jump.mean_absolute.item() == pytest.approx(0.5)
    assert jump.num_borders == 3


def test_responses_of_one_window_have_no_borders() -> None:
    jump = border_value_jump(torch.ones(2, 3), torch.ones(2, 3, dtype=torch.bool), window_length=3)

    assert jump.num_borders == 0
    assert jump.mean == 0.0


def test_probability_gap_compares_the_learner_with_the_engine() -> None:
    learner = torch.tensor([0.5, 0.4, NAN]).log()
    engine = torch.tensor([0.25, 0.5, NAN]).log()

    gap = probability_gap(learner, engine, ~learner.isnan())

    assert gap.mean.item() == pytest.approx(0.175)
    assert gap.largest.item() == pytest.approx(0.25)
    # ratios learner / engine of 2 and .8
    assert gap.kl.item() == pytest.approx((2 - math.log(2) - 1 + 0.8 - math.log(0.8) - 1) / 2)


def test_probability_gap_of_no_tokens_is_zero() -> None:
    gap = probability_gap(torch.zeros(0), torch.zeros(0), torch.zeros(0, dtype=torch.bool))

    assert [gap.mean.item(), gap.largest.item(), gap.kl.item()] == [0.0, 0.0, 0.0]


def test_the_top_percent_of_200_tokens_are_the_two_of_the_largest_advantages() -> None:
    advantages = torch.full((2, 101), 0.5)
    advantages[0, 3], advantages[1, 7] = -30.0, 21.0
    mask = torch.ones_like(advantages, dtype=torch.bool)
    mask[:, -1] = False
    advantages[:, -1] = math.nan

    # (30 + 21) / (51 + 198 * .5)
    assert top_percent_weight(advantages, mask).item() == pytest.approx(51 / 150)


@pytest.mark.parametrize(
    ("advantages", "expected"),
    [([1.0] * 200, 0.01), ([3.0, -1.0], 0.75), ([2.0], 1.0), ([0.0, 0.0], math.nan), ([], math.nan)],
)
def test_the_top_percent_is_at_least_one_token_and_undefined_without_weight(
    advantages: list[float], expected: float
) -> None:
    of_tokens = torch.tensor(advantages)

    weight = top_percent_weight(of_tokens, torch.ones_like(of_tokens, dtype=torch.bool))

    assert weight.item() == pytest.approx(expected, nan_ok=True)


def test_the_row_with_the_largest_share_counts_advantages_of_tokens_that_the_policy_was_unsure_of() -> None:
    advantages = torch.tensor([[-2.0, 1.0, 4.0], [1.0, 0.5, 0.0]])
    logprobs = torch.tensor([[0.25, 1.0, 0.5], [0.5, 1.0, 0.5]]).log()
    mask = torch.tensor([[True, True, False], [True, True, True]])

    # rows: 2 * 0.75, and 1 * 0.5
    assert largest_row_share(advantages, logprobs, mask).item() == pytest.approx(0.75)


def test_no_row_has_a_share_where_the_policy_is_sure_of_every_token() -> None:
    ones = torch.ones(2, 3)

    assert largest_row_share(ones, 0.0 * ones, ones.bool()).isnan()
