"""Extended Generalised Advantage Estimation (EGAE): advantages for a response that has not ended yet.

It differs from the textbook's GAE in one number. A window cut after token l-1 lacks V(s_l), and T-PPO puts V(s_{l-1})
in its place (boundary "hold"), so that a partial response can be trained on at once. A finished row is plain GAE.

Values: `values[:, t]` is V(s_t), the value model's output at the position of the token before token t.

Time counts the policy's own tokens. What stands between them and was not sampled, such as a tool's output, is False in
the mask and belongs to the transition: token t's successor is the next True one, whose V(s_{t+1}) has read everything
before it, and neither gamma nor lambda counts the tokens between.
Equation numbers are those of T-PPO (arXiv 2506.15050) and of VAPO (arXiv 2504.05118).
"""

from typing import Literal

import torch
from torch import Tensor

from learner.algorithm.arguments import require_masks, require_shape

Boundary = Literal["hold", "bootstrap"]


@torch.no_grad()
def extended_gae(
    rewards: Tensor,
    values: Tensor,
    response_mask: Tensor,
    is_finished: Tensor,
    *,
    gamma: float,
    gae_lambda: float | Tensor,
    boundary: Boundary = "hold",
    bootstrap_values: Tensor | None = None,
) -> Tensor:
    """Advantages [batch, time] of one window per row, zero where the mask is False (T-PPO equation 6).

        delta_t = r_t + gamma V(s_{t+1}) - V(s_t)
        A_t     = delta_t + gamma lambda A_{t+1},    A_l = 0

    with V(s_l) = 0 for finished rows, else V(s_{l-1}) ("hold") or `bootstrap_values` [batch] ("bootstrap").
    `rewards`, `values` [batch, time]; `response_mask` [batch, time] and `is_finished` [batch] bool; its True entries
    may have gaps, and there may be none; `gae_lambda` is one number, or one for each row [batch].
    """
    deltas = temporal_differences(
        rewards,
        values,
        response_mask,
        is_finished,
        gamma=gamma,
        boundary=boundary,
        bootstrap_values=bootstrap_values,
    )
    if isinstance(gae_lambda, Tensor) and gae_lambda.ndim:
        require_shape(is_finished.shape, gae_lambda=gae_lambda)
    return in_place(discounted_suffix_sums(at_front(deltas, response_mask), gamma * gae_lambda), response_mask)


def temporal_differences(
    rewards: Tensor,
    values: Tensor,
    response_mask: Tensor,
    is_finished: Tensor,
    *,
    gamma: float,
    boundary: Boundary = "hold",
    bootstrap_values: Tensor | None = None,
) -> Tensor:
    """delta_t = r_t + gamma V(s_{t+1}) - V(s_t) [batch, time], zero where the mask is False (T-PPO equation 2)."""
    require_masks(response_mask=response_mask, is_finished=is_finished)
    require_shape(response_mask.shape, rewards=rewards, values=values)
    require_shape(response_mask.shape[:1], is_finished=is_finished, bootstrap_values=bootstrap_values)
    if boundary == "hold":
        values_after_cut = values  # read at the last token only, where it says V(s_l) := V(s_{l-1})
    elif boundary == "bootstrap" and bootstrap_values is not None:
        values_after_cut = bootstrap_values.to(values).unsqueeze(1)
    else:
        raise ValueError(f"boundary must be 'hold', or 'bootstrap' with bootstrap_values; it is {boundary!r}")
    values_after_end = torch.where(is_finished.unsqueeze(1), 0.0, values_after_cut)

    num_up_to = response_mask.cumsum(1)
    has_next = num_up_to < num_up_to[:, -1:]
    following = in_place(at_front(values, response_mask).roll(-1, dims=1), response_mask)
    next_values = torch.where(has_next, following, values_after_end)
    return torch.where(response_mask, rewards + gamma * next_values - values, 0.0)


def at_front(x: Tensor, mask: Tensor) -> Tensor:
    """Each row's True entries side by side from time 0 on, then zeros; `x` and `mask` [batch, time]."""
    is_front = _front_of(mask)
    if torch.equal(mask, is_front):
        return torch.where(mask, x, 0)
    front = torch.zeros_like(x)
    front[is_front] = x[mask]
    return front


def in_place(front: Tensor, mask: Tensor) -> Tensor:
    """The inverse of `at_front`: each entry where the mask is True, 0 where it is False [batch, time]."""
    is_front = _front_of(mask)
    if torch.equal(mask, is_front):
        return torch.where(mask, front, 0)
    placed = torch.zeros_like(front)
    placed[mask] = front[is_front]
    return placed


def _front_of(mask: Tensor) -> Tensor:
    """As many True entries per row as the mask has, from time 0 on."""
    return torch.arange(mask.shape[1], device=mask.device) < mask.sum(dim=1, keepdim=True)


def discounted_suffix_sums(terms: Tensor, discount: float | Tensor) -> Tensor:
    """S_t = sum over k >= t of discount^(k-t) * terms_k [batch, time]; `discount` is one number or [batch].

    By doubling: a sum of n terms plus discount^n times the sum n places on has 2n terms; log2(time) rounds do. Without
    a discount it is one cumulative sum.
    """
    if not isinstance(discount, Tensor) and discount == 1.0:
        return terms.flip(1).cumsum(1).flip(1)
    if isinstance(discount, Tensor):
        discount = discount.to(terms).reshape(-1, 1)  # float64 must not change the precision that the caller chose
    suffix_sums, num_terms = terms, 1
    while num_terms < terms.shape[1]:
        following = torch.nn.functional.pad(suffix_sums[:, num_terms:], (0, num_terms))
        suffix_sums = suffix_sums + discount * following
        discount, num_terms = discount * discount, 2 * num_terms
    return suffix_sums


@torch.no_grad()
def monte_carlo_returns(rewards: Tensor, response_mask: Tensor, *, gamma: float) -> Tensor:
    """R_t = sum over k >= t of gamma^(k-t) r_k [batch, time], the value model's target for finished responses.

    Zero where the mask is False; the tokens there count for no time.
    """
    require_masks(response_mask=response_mask)
    require_shape(response_mask.shape, rewards=rewards)
    return in_place(discounted_suffix_sums(at_front(rewards, response_mask), gamma), response_mask)


def length_adaptive_lambda(lengths: Tensor, *, alpha: float = 0.05, floor: float = 0.95) -> Tensor:
    """lambda = 1 - 1 / (alpha l) [batch], at least `floor` (VAPO equation 5, which is negative for l < 1 / alpha).

    It makes the lambda weights' total, 1 / (1 - lambda), grow with the length l as alpha l.
    """
    return (1.0 - 1.0 / (alpha * lengths)).clamp(min=floor)


def effective_lengths(response_lengths: Tensor, is_finished: Tensor, *, window_length: int) -> Tensor:
    """Lengths for `length_adaptive_lambda` [batch]: a cut response is guessed to last half a window more.

    `response_lengths` counts the response's tokens of all windows so far.
    """
    expected_remainder = torch.where(is_finished, 0, window_length // 2)
    return response_lengths + expected_remainder
