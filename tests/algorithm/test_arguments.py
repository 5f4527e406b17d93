"""How other code calls these functions: the dtypes and layouts that must work, and the mistakes that must not pass."""

import math
from typing import Any

import pytest
import torch

from learner.algorithm.egae import extended_gae, monte_carlo_returns
from learner.algorithm.losses import policy_loss, value_loss
from learner.algorithm.token_filter import policy_mask, value_mask

# Two cut rows: with gamma = lambda = 1 the advantage is the last value minus each token's own.
VALUES = torch.tensor([[0.25, 0.5, 1.0], [1.0, 0.0, 0.5]])
ADVANTAGES = torch.tensor([[0.75, 0.5, 0.0], [-0.5, 0.5, 0.0]])
CUT = torch.tensor([False, False])
EVERYTHING = torch.ones(2, 3, dtype=torch.bool)


def advantages(**other: Any) -> torch.Tensor:
    arguments: dict[str, Any] = {
        "rewards": torch.zeros(2, 3),
        "values": VALUES,
        "response_mask": EVERYTHING,
        "is_finished": CUT,
        "gamma": 1.0,
        "gae_lambda": 1.0,
    }
    return extended_gae(**{**arguments, **other})


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_advantages_have_the_precision_of_the_values(dtype: torch.dtype) -> None:
    result = advantages(rewards=torch.zeros(2, 3, dtype=dtype), values=VALUES.to(dtype))

    assert torch.equal(result, ADVANTAGES.to(dtype))


def test_bootstrap_values_in_double_precision_leave_advantages_in_single_precision() -> None:
    after_cut = torch.tensor([2.0, 0.0], dtype=torch.float64)

    result = advantages(boundary="bootstrap", bootstrap_values=after_cut)

    assert torch.equal(result, torch.tensor([[1.75, 1.5, 1.0], [-1.0, 0.0, -0.5]]))


def test_the_layout_in_memory_does_not_matter() -> None:
    assert torch.equal(advantages(values=VALUES.T.contiguous().T, response_mask=EVERYTHING.T.clone().T), ADVANTAGES)


def test_a_batch_without_rows_has_no_advantages() -> None:
    nothing = torch.zeros(0, 3)

    result = advantages(rewards=nothing, values=nothing, response_mask=nothing.bool(), is_finished=CUT[:0])

    assert result.shape == (0, 3)


@pytest.mark.parametrize("gae_lambda", [1, torch.tensor(1.0), torch.tensor([1.0, 1.0])])
def test_lambda_is_a_number_or_one_for_each_row(gae_lambda: Any) -> None:
    assert torch.equal(advantages(gae_lambda=gae_lambda), ADVANTAGES)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("is_finished", CUT[:, None]),
        ("is_finished", CUT[:1]),
        ("bootstrap_values", torch.zeros(2, 1)),
        ("bootstrap_values", torch.zeros(1)),
        ("values", VALUES[:1]),
        ("values", torch.zeros(2, 4)),
        ("rewards", torch.zeros(2, 1)),
        ("gae_lambda", torch.ones(2, 1)),
        ("gae_lambda", torch.ones(1)),
        ("gae_lambda", torch.ones(2, 3)),
    ],
)
def test_a_shape_that_would_be_broadcast_is_refused_by_name(name: str, wrong: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=f"{name} has shape"):
        advantages(**{"boundary": "bootstrap", "bootstrap_values": torch.zeros(2), name: wrong})


@pytest.mark.parametrize("name", ["response_mask", "is_finished"])
def test_a_mask_of_numbers_is_refused_by_name(name: str) -> None:
    numbers = {"response_mask": EVERYTHING.int(), "is_finished": CUT.int()}[name]

    with pytest.raises(ValueError, match=f"{name} is torch.int32; expected torch.bool"):
        advantages(**{name: numbers})


@pytest.mark.parametrize("mask_of", [lambda *a: policy_mask(*a, num_ignored_tail_tokens=1), value_mask])
@pytest.mark.parametrize("arguments", [(EVERYTHING.int(), CUT), (EVERYTHING, CUT[:, None]), (EVERYTHING, CUT[:1])])
def test_masks_are_made_of_masks(mask_of: Any, arguments: Any) -> None:
    with pytest.raises(ValueError, match="expected"):
        mask_of(*arguments)


def test_returns_are_zero_where_the_mask_is_false_and_take_no_gradient() -> None:
    rewards = torch.tensor([[math.nan, 0.0, 1.0, math.nan]], requires_grad=True)

    returns = monte_carlo_returns(rewards, torch.tensor([[False, True, True, False]]), gamma=0.5)

    assert returns.tolist() == [[0.0, 0.5, 1.0, 0.0]]
    assert not returns.requires_grad


def test_the_policy_loss_moves_the_policy_alone_though_old_and_new_be_one_tensor() -> None:
    logprobs = torch.full((1, 2), -1.0, requires_grad=True)
    of_a_value_model = torch.tensor([[2.0, -4.0]], requires_grad=True)

    policy_loss(
        logprobs, logprobs, of_a_value_model, torch.ones(1, 2, dtype=torch.bool), clip_low=0.2, clip_high=0.28
    ).loss.backward()  # type: ignore[no-untyped-call]

    # With ratio 1 it is -A / N.
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == [[-1.0, 2.0]]
    assert of_a_value_model.grad is None


def test_the_value_loss_moves_the_values_alone() -> None:
    values, old_values, returns = (torch.full((1, 2), x, requires_grad=True) for x in (0.0, 0.0, 1.0))

    value_loss(values, old_values, returns, torch.ones(1, 2, dtype=torch.bool)).loss.backward()  # type: ignore[no-untyped-call]

    assert values.grad is not None
    assert (old_values.grad, returns.grad) == (None, None)


@pytest.mark.parametrize("advantages_of_rows", [torch.ones(1), torch.ones(2, 1)])
def test_losses_take_one_number_for_each_token(advantages_of_rows: torch.Tensor) -> None:
    logprobs = torch.zeros(2, 3)

    with pytest.raises(ValueError, match="advantages has shape"):
        policy_loss(logprobs, logprobs, advantages_of_rows, EVERYTHING, clip_low=0.2, clip_high=0.2)
    with pytest.raises(ValueError, match="returns has shape"):
        value_loss(logprobs, logprobs, advantages_of_rows, EVERYTHING)
