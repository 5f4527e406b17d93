"""What holds of the advantages for every batch, every gamma and every lambda."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from learner.algorithm.egae import extended_gae, monte_carlo_returns
from tests.algorithm import reference
from tests.algorithm.strategies import (
    Batch,
    Row,
    as_batch,
    batches_of_rows,
    property_test,
    rows,
    small_floats,
    unit_interval,
)


def estimate(batch: Batch, *, gamma: float, gae_lambda: float | Tensor, **boundary: Any) -> Tensor:
    return extended_gae(
        batch.rewards,
        batch.values,
        batch.response_mask,
        batch.is_finished,
        gamma=gamma,
        gae_lambda=gae_lambda,
        **boundary,
    )


def estimate_row(row: Row, *, gamma: float, gae_lambda: float) -> list[float]:
    advantages: list[float] = estimate(as_batch([row]), gamma=gamma, gae_lambda=gae_lambda)[0].tolist()
    return advantages[: len(row.values)]


@property_test
@given(batches_of_rows(), unit_interval, unit_interval)
def test_advantages_equal_the_double_sum_and_padding_is_zero(
    batch_rows: list[Row], gamma: float, gae_lambda: float
) -> None:
    advantages = estimate(as_batch(batch_rows), gamma=gamma, gae_lambda=gae_lambda)

    for row, estimated in zip(batch_rows, advantages.tolist(), strict=True):
        expected = reference.advantages_of_row(
            row.rewards, row.values, is_finished=row.is_finished, gamma=gamma, gae_lambda=gae_lambda
        )
        assert estimated[: len(expected)] == pytest.approx(expected, abs=1e-9)
        assert all(a == 0.0 for a in estimated[len(expected) :])


@property_test
@given(rows(), st.data(), unit_interval, unit_interval)
def test_tokens_that_were_not_sampled_change_nothing_for_the_others(
    row: Row, data: st.DataObject, gamma: float, gae_lambda: float
) -> None:
    gaps = data.draw(st.lists(st.integers(0, 2), min_size=len(row.values) + 1, max_size=len(row.values) + 1))
    places = [sum(gaps[: t + 1]) + t for t in range(len(row.values))]
    width = sum(gaps) + len(row.values)
    rewards, values = torch.full((1, width), math.nan, dtype=torch.float64), torch.full((1, width), math.nan).double()
    mask = torch.zeros(1, width, dtype=torch.bool)
    rewards[0, places], values[0, places] = (
        as_batch([row], num_padding=0).rewards,
        as_batch([row], num_padding=0).values,
    )
    mask[0, places] = True
    finished = torch.tensor([row.is_finished])

    advantages = extended_gae(rewards, values, mask, finished, gamma=gamma, gae_lambda=gae_lambda)
    returns = monte_carlo_returns(rewards, mask, gamma=gamma)

    assert advantages[0, places].tolist() == pytest.approx(
        estimate_row(row, gamma=gamma, gae_lambda=gae_lambda), abs=1e-12
    )
    assert returns[0, places].tolist() == pytest.approx(reference.returns_by_sum(row.rewards, gamma=gamma), abs=1e-9)
    assert not advantages[~mask].any()
    assert not returns[~mask].any()


@property_test
@given(rows(is_finished=True), unit_interval, unit_interval)
def test_a_finished_row_has_plain_gae(row: Row, gamma: float, gae_lambda: float) -> None:
    plain = reference.advantages_by_double_sum(
        row.rewards, row.values, gamma=gamma, gae_lambda=gae_lambda, value_after_end=0.0
    )

    assert estimate_row(row, gamma=gamma, gae_lambda=gae_lambda) == pytest.approx(plain, abs=1e-9)


@property_test
@given(rows(min_length=1, is_finished=True, has_rewards=False), small_floats)
def test_without_discount_a_finished_row_has_score_minus_value(row: Row, score: float) -> None:
    scored = Row([*row.rewards[:-1], score], row.values, is_finished=True)

    advantages = estimate_row(scored, gamma=1.0, gae_lambda=1.0)

    assert advantages == pytest.approx([score - v for v in row.values], abs=1e-9)


@property_test
@given(rows(min_length=1, is_finished=False, has_rewards=False))
def test_without_discount_a_cut_row_has_the_last_value_minus_value(row: Row) -> None:
    advantages = estimate_row(row, gamma=1.0, gae_lambda=1.0)

    assert advantages == pytest.approx([row.values[-1] - v for v in row.values], abs=1e-9)


@property_test
@given(rows(min_length=1, is_finished=False, has_rewards=False), unit_interval)
def test_the_last_token_before_a_cut_has_advantage_zero_for_every_lambda(row: Row, gae_lambda: float) -> None:
    assert estimate_row(row, gamma=1.0, gae_lambda=gae_lambda)[-1] == 0.0


@property_test
@given(rows(min_length=1), unit_interval, unit_interval)
def test_advantage_plus_value_is_the_lambda_return(row: Row, gamma: float, gae_lambda: float) -> None:
    value_after_end = reference.value_after_window(row.values, is_finished=row.is_finished)

    advantages = estimate_row(row, gamma=gamma, gae_lambda=gae_lambda)

    for t, (advantage, value) in enumerate(zip(advantages, row.values, strict=True)):
        expected = reference.lambda_return(
            row.rewards, row.values, t, gamma=gamma, gae_lambda=gae_lambda, value_after_end=value_after_end
        )
        assert advantage + value == pytest.approx(expected, abs=1e-9)


@property_test
@given(rows(), st.integers(0, 8), unit_interval, unit_interval)
def test_where_a_window_begins_does_not_change_its_advantages(
    row: Row, start: int, gamma: float, gae_lambda: float
) -> None:
    suffix = Row(row.rewards[start:], row.values[start:], row.is_finished)

    of_suffix = estimate_row(suffix, gamma=gamma, gae_lambda=gae_lambda)

    assert of_suffix == pytest.approx(estimate_row(row, gamma=gamma, gae_lambda=gae_lambda)[start:], abs=1e-9)


@property_test
@given(rows(min_length=1, has_rewards=False), small_floats, unit_interval)
def test_a_constant_added_to_all_values_moves_finished_rows_only(row: Row, constant: float, gae_lambda: float) -> None:
    raised = Row(row.rewards, [v + constant for v in row.values], row.is_finished)
    num_after = [len(row.values) - 1 - t for t in range(len(row.values))]
    expected_shift = [-constant * gae_lambda**n if row.is_finished else 0.0 for n in num_after]

    before = estimate_row(row, gamma=1.0, gae_lambda=gae_lambda)
    after = estimate_row(raised, gamma=1.0, gae_lambda=gae_lambda)

    assert [a - b for a, b in zip(after, before, strict=True)] == pytest.approx(expected_shift, abs=1e-9)


@property_test
@given(rows(min_length=1, is_finished=False), small_floats, unit_interval, unit_interval)
def test_the_boundaries_differ_by_the_discounted_value_that_they_assume(
    row: Row, next_value: float, gamma: float, gae_lambda: float
) -> None:
    batch = as_batch([row], num_padding=0)
    finished = as_batch([Row(row.rewards, row.values, is_finished=True)], num_padding=0)
    weights = [gamma * (gamma * gae_lambda) ** (len(row.values) - 1 - t) for t in range(len(row.values))]

    hold = estimate(batch, gamma=gamma, gae_lambda=gae_lambda)
    terminal = estimate(finished, gamma=gamma, gae_lambda=gae_lambda)
    bootstrap = estimate(
        batch, gamma=gamma, gae_lambda=gae_lambda, boundary="bootstrap", bootstrap_values=torch.tensor([next_value])
    )

    last_value = row.values[-1]
    assert (hold - terminal)[0].tolist() == pytest.approx([w * last_value for w in weights], abs=1e-9)
    assert (bootstrap - hold)[0].tolist() == pytest.approx([w * (next_value - last_value) for w in weights], abs=1e-9)


@property_test
@given(batches_of_rows(), st.sampled_from([math.nan, math.inf, -1e30]), st.integers(0, 5), unit_interval)
def test_padding_and_its_garbage_change_nothing(
    batch_rows: list[Row], garbage: float, num_padding: int, gae_lambda: float
) -> None:
    width = max(len(row.values) for row in batch_rows)
    clean = as_batch(batch_rows, num_padding=0, padding=0.0)
    dirty = as_batch(batch_rows, num_padding=num_padding, padding=garbage)

    expected = estimate(clean, gamma=0.9, gae_lambda=gae_lambda)

    assert torch.equal(estimate(dirty, gamma=0.9, gae_lambda=gae_lambda)[:, :width], expected)


@property_test
@given(batches_of_rows(), st.randoms(use_true_random=False), unit_interval)
def test_rows_do_not_see_each_other(batch_rows: list[Row], random: Any, gae_lambda: float) -> None:
    order = list(range(len(batch_rows)))
    random.shuffle(order)
    together = estimate(as_batch(batch_rows), gamma=0.9, gae_lambda=gae_lambda)

    permuted = estimate(as_batch([batch_rows[i] for i in order]), gamma=0.9, gae_lambda=gae_lambda)
    alone = [estimate_row(row, gamma=0.9, gae_lambda=gae_lambda) for row in batch_rows]

    assert torch.equal(permuted, together[order])
    assert alone == [together[i, : len(row.values)].tolist() for i, row in enumerate(batch_rows)]


@property_test
@given(batches_of_rows(), st.lists(unit_interval, min_size=4, max_size=4))
def test_each_row_may_have_its_own_lambda(batch_rows: list[Row], lambdas: list[float]) -> None:
    lambdas = lambdas[: len(batch_rows)]

    advantages = estimate(as_batch(batch_rows), gamma=0.9, gae_lambda=torch.tensor(lambdas, dtype=torch.float64))

    for i, row in enumerate(batch_rows):
        alone = estimate_row(row, gamma=0.9, gae_lambda=lambdas[i])
        assert advantages[i, : len(row.values)].tolist() == pytest.approx(alone, abs=1e-9)


@property_test
@given(batches_of_rows(), unit_interval)
def test_monte_carlo_returns_equal_the_explicit_sum(batch_rows: list[Row], gamma: float) -> None:
    batch = as_batch(batch_rows)

    returns = monte_carlo_returns(batch.rewards, batch.response_mask, gamma=gamma)

    for row, estimated in zip(batch_rows, returns.tolist(), strict=True):
        expected = reference.returns_by_sum(row.rewards, gamma=gamma)
        assert estimated[: len(expected)] == pytest.approx(expected, abs=1e-9)
        assert all(r == 0.0 for r in estimated[len(expected) :])
