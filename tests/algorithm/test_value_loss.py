import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from learner.algorithm.losses import row_mean_weights, token_mean_weights, value_loss
from tests.algorithm.gradients import gradient
from tests.algorithm.strategies import property_test, small_floats

NAN = math.nan
UNCLIPPED: dict[str, Any] = {"clip_low": math.inf, "clip_high": math.inf}

# One finished row, return 1. First token: V 1.1, but clipped up to 2.2 - 0.5 = 1.7: error 0.7. Second: V 0.9, but
# clipped down to -0.6 + 0.6 = 0: error 1. Third: right. So 1/2 (0.49 + 1 + 0) / 3. The second row is cut.
VALUES = torch.tensor([[1.1, 0.9, 1.0], [NAN, 5.0, 5.0]], dtype=torch.float64)
OLD_VALUES = torch.tensor([[2.2, -0.6, 1.0], [NAN, 0.0, 0.0]], dtype=torch.float64)
RETURNS = torch.tensor([[1.0, 1.0, 1.0], [NAN, 0.0, 0.0]], dtype=torch.float64)
MASK = torch.tensor([[True, True, True], [False, False, False]])


def test_loss_takes_the_larger_of_clipped_and_unclipped_error() -> None:
    result = value_loss(VALUES, OLD_VALUES, RETURNS, MASK)

    assert result.loss.item() == pytest.approx(149 / 600, abs=1e-12)  # .2483333333
    assert result.clip_fraction.item() == pytest.approx(2 / 3)
    assert result.num_tokens == 3


def test_gradient_vanishes_where_the_clip_decided() -> None:
    values = torch.tensor([1.1, 0.9, 1.2], dtype=torch.float64, requires_grad=True)

    loss = value_loss(values, OLD_VALUES[0], RETURNS[0], MASK[0]).loss

    assert gradient(loss, of=values).tolist() == pytest.approx([0.0, 0.0, 0.2 / 3], abs=1e-12)


def test_without_clip_the_loss_is_half_the_squared_error() -> None:
    result = value_loss(VALUES, OLD_VALUES, RETURNS, MASK, **UNCLIPPED)

    assert result.loss.item() == pytest.approx(0.5 * (0.01 + 0.01) / 3, abs=1e-12)
    assert result.clip_fraction == 0.0


def test_weights_by_row_give_the_divisor_that_the_caller_chose() -> None:
    # The authors' recipe divides by the configured mini-batch of two rows, not by the one that finished.
    of_recipe = row_mean_weights(MASK) / 2

    assert value_loss(VALUES, OLD_VALUES, RETURNS, MASK, token_weights=of_recipe).loss.item() == pytest.approx(
        149 / 1200
    )


def test_rows_of_different_length_weigh_the_same_by_row_and_not_by_token() -> None:
    values = torch.tensor([[1.0, NAN, NAN], [0.0, 0.0, 0.0], [NAN, NAN, NAN]])
    mask = torch.tensor([[True, False, False], [True, True, True], [False, False, False]])
    zeros = torch.zeros(3, 3)

    by_token = value_loss(values, zeros, zeros, mask, **UNCLIPPED)
    by_row = value_loss(values, zeros, zeros, mask, **UNCLIPPED, token_weights=row_mean_weights(mask))

    assert by_token.loss.item() == pytest.approx(0.5 * 1 / 4)
    assert by_row.loss.item() == pytest.approx(0.5 * 1 / 2)


def test_row_weights_are_one_over_length_and_number_of_rows_and_add_up_to_one() -> None:
    mask = torch.tensor([[True, False, False], [True, True, True], [False, False, False]])

    weights = row_mean_weights(mask)

    torch.testing.assert_close(weights, torch.tensor([[1 / 2, 0, 0], [1 / 6, 1 / 6, 1 / 6], [0, 0, 0]]))


def test_token_weights_are_one_over_the_number_of_tokens_and_add_up_to_one() -> None:
    mask = torch.tensor([[True, False, False], [True, True, True], [False, False, False]])

    weights = token_mean_weights(mask)

    torch.testing.assert_close(weights, torch.tensor([[1 / 4, 0, 0], [1 / 4, 1 / 4, 1 / 4], [0, 0, 0]]))


def test_an_empty_mask_has_no_token_weights() -> None:
    assert token_mean_weights(torch.zeros(2, 3, dtype=torch.bool)).tolist() == [[0.0] * 3] * 2


def test_a_row_keeps_its_loss_when_packed_flat_with_its_weights() -> None:
    weights = row_mean_weights(MASK)

    in_rows = value_loss(VALUES, OLD_VALUES, RETURNS, MASK, token_weights=weights)
    flat = value_loss(VALUES[MASK], OLD_VALUES[MASK], RETURNS[MASK], MASK[MASK], token_weights=weights[MASK])

    assert flat.loss.item() == pytest.approx(in_rows.loss.item())


def test_padding_reaches_neither_the_loss_nor_its_gradient() -> None:
    values = VALUES.clone().requires_grad_()
    weights = row_mean_weights(MASK).where(MASK, NAN)

    loss = value_loss(values, OLD_VALUES, RETURNS, MASK, token_weights=weights).loss

    assert loss.item() == pytest.approx(149 / 600)
    assert gradient(loss, of=values).tolist() == [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]


def test_no_finished_row_has_loss_zero() -> None:
    nothing = torch.zeros_like(MASK)

    assert value_loss(VALUES, OLD_VALUES, RETURNS, nothing).loss == 0.0
    assert value_loss(VALUES, OLD_VALUES, RETURNS, nothing, token_weights=row_mean_weights(nothing)).loss == 0.0


@property_test
@given(st.lists(st.tuples(small_floats, small_floats, small_floats), min_size=1, max_size=8))
def test_clip_never_makes_the_loss_smaller(tokens: list[tuple[float, float, float]]) -> None:
    values, old_values, returns = torch.tensor(tokens, dtype=torch.float64).unbind(1)
    mask = torch.ones_like(values, dtype=torch.bool)

    clipped = value_loss(values, old_values, returns, mask).loss.item()

    squared_errors = [(v - r) ** 2 for v, _, r in tokens]
    assert clipped >= 0.5 * sum(squared_errors) / len(tokens) - 1e-9
