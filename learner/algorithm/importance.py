"""Importance sampling: weights between the policy that sampled a token and the one that the update starts from.

w = pi_old / pi_rollout, taken without gradient: the decoupled weight of `losses.policy_loss`. The weights are one only
if the engine and the learner agree and the policy did not change between sampling and training. Log-ratios are limited
before exp() sees them.
"""

from typing import Protocol

import torch
from torch import Tensor

MAX_LOG_RATIO = 20.0  # exp(20) is 5e8: beyond it a ratio says "broken", and float32 must not overflow


def bounded_log_ratio(logprobs: Tensor, other_logprobs: Tensor, mask: Tensor) -> Tensor:
    """log(pi / pi_other) per token within +-MAX_LOG_RATIO, 0 (ratio one) where the mask is False."""
    log_ratio = torch.where(mask, logprobs - other_logprobs, 0.0)
    return log_ratio.clamp(min=-MAX_LOG_RATIO, max=MAX_LOG_RATIO)


class Limit(Protocol):
    """What becomes of weights above the cap."""

    def __call__(self, weights: Tensor, *, cap: float) -> Tensor: ...


def truncated(weights: Tensor, *, cap: float) -> Tensor:
    """min(w, cap): truncated importance sampling."""
    return weights.clamp(max=cap)


def masked(weights: Tensor, *, cap: float) -> Tensor:
    """w where it is at most the cap, else 0: the token has no gradient, and still counts in the mean."""
    return torch.where(weights > cap, 0.0, weights)


@torch.no_grad()
def importance_weights(
    old_logprobs: Tensor,
    rollout_logprobs: Tensor,
    mask: Tensor,
    *,
    cap: float | None = None,
    limit: Limit = truncated,
) -> Tensor:
    """w = pi_old / pi_rollout per token within its limit, without gradient; 1 where the mask is False."""
    weights = bounded_log_ratio(old_logprobs, rollout_logprobs, mask).exp()
    return weights if cap is None else limit(weights, cap=cap)


def effective_sample_size(weights: Tensor, mask: Tensor) -> Tensor:
    """(sum w)^2 / (N sum w^2): the share of the N tokens in effect, 1 when all weights are equal; 0 for no tokens."""
    counted = torch.where(mask, weights, 0.0)
    largest_square_sum = counted.square().sum() * mask.sum()
    return torch.where(mask.any(), counted.sum().square() / largest_square_sum, 0.0)
