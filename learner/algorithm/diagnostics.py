"""What to look at when training goes wrong: how good the values are, and what cutting responses costs.

The cut's questions: is V(s_l) := V(s_{l-1}) fair (`border_value_jump`)? How far does a window's advantage stray from
the one that the whole response would have given (`bias_at_cut`)? Are the values worse where a response was cut
(`explained_variance_by_cut`) or late in it (`explained_variance_by_position`)? The gradient's: do few tokens carry it
(`top_percent_weight`), or one response (`largest_row_share`)?
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from learner.algorithm.egae import Boundary, extended_gae
from learner.algorithm.losses import k3_kl
from learner.algorithm.masked_stats import explained_variance, masked_mean


@dataclass(frozen=True, slots=True)
class ExplainedVarianceByCut:
    """Explained variance over the tokens of each kind of window; NaN for a kind without two tokens."""

    finished: Tensor
    cut: Tensor


@dataclass(frozen=True, slots=True)
class BorderValueJump:
    """V(s_o) - V(s_{o-1}) over all window borders o inside the responses."""

    mean: Tensor
    mean_absolute: Tensor
    num_borders: Tensor


@dataclass(frozen=True, slots=True)
class ProbabilityGap:
    """How far two evaluations of the same tokens lie apart, engine and learner as a rule."""

    mean: Tensor  # of |p - p'|
    largest: Tensor  # of |p - p'|
    kl: Tensor  # KL(sampling policy || other), k3 estimate


def explained_variance_by_cut(
    values: Tensor, returns: Tensor, mask: Tensor, *, is_cut: Tensor
) -> ExplainedVarianceByCut:
    """Explained variance of the windows that ended their response and of those that were cut; all [batch, time].

    `is_cut` [batch, time] bool: the token's window was not the last. `returns` are what the response earned in the end.
    """
    return ExplainedVarianceByCut(
        finished=explained_variance(values, returns, mask & ~is_cut),
        cut=explained_variance(values, returns, mask & is_cut),
    )


def explained_variance_by_position(
    values: Tensor, returns: Tensor, mask: Tensor, *, positions: Tensor, boundaries: Sequence[int]
) -> Tensor:
    """Explained variance [len(boundaries) + 1] by place in the response: before, between and from the boundaries on.

    `positions` counts from 0 at the response's first token; any shape, that of `values`.
    """
    buckets = torch.bucketize(positions.contiguous(), torch.tensor(boundaries, device=positions.device), right=True)
    by_bucket = [explained_variance(values, returns, mask & (buckets == b)) for b in range(len(boundaries) + 1)]
    return torch.stack(by_bucket)


def bias_at_cut(
    rewards: Tensor,
    values: Tensor,
    response_mask: Tensor,
    *,
    window_length: int,
    gamma: float,
    gae_lambda: float | Tensor,
    boundary: Boundary = "hold",
) -> Tensor:
    """EGAE of each window by itself minus GAE of the whole, per token [batch, time], for finished responses.

    Rows begin at time 0. The last window's bias is zero: there EGAE is GAE.
    """
    of_windows = window_advantages(
        rewards,
        values,
        response_mask,
        window_length=window_length,
        gamma=gamma,
        gae_lambda=gae_lambda,
        boundary=boundary,
    )
    all_finished = torch.ones_like(response_mask[:, 0])
    return of_windows - extended_gae(rewards, values, response_mask, all_finished, gamma=gamma, gae_lambda=gae_lambda)


def window_advantages(
    rewards: Tensor,
    values: Tensor,
    response_mask: Tensor,
    *,
    window_length: int,
    gamma: float,
    gae_lambda: float | Tensor,
    boundary: Boundary = "hold",
) -> Tensor:
    """EGAE of finished responses cut into windows, side by side again [batch, time]: what the training steps saw.

    `gae_lambda` is one number, or [batch]. With "bootstrap" the value after a cut is that of the next window's start.
    """
    batch_size, num_tokens = response_mask.shape
    num_windows = math.ceil(num_tokens / window_length)

    def as_windows(x: Tensor) -> Tensor:  # [batch, time] -> [batch * num_windows, window_length]
        return torch.nn.functional.pad(x, (0, num_windows * window_length - num_tokens)).reshape(-1, window_length)

    window_ends = window_length * torch.arange(1, num_windows + 1, device=response_mask.device)
    is_last_window = window_ends >= response_mask.sum(dim=1, keepdim=True)
    of_windows = gae_lambda.repeat_interleave(num_windows) if isinstance(gae_lambda, Tensor) else gae_lambda
    advantages = extended_gae(
        as_windows(rewards),
        as_windows(values),
        as_windows(response_mask),
        is_last_window.reshape(-1),
        gamma=gamma,
        gae_lambda=of_windows,
        boundary=boundary,
        bootstrap_values=as_windows(values.roll(-1, dims=1))[:, -1],
    )
    return advantages.reshape(batch_size, -1)[:, :num_tokens]


def border_value_jump(values: Tensor, response_mask: Tensor, *, window_length: int) -> BorderValueJump:
    """By how much the value changes where a window ended, the change that the "hold" boundary takes to be zero.

    `values`, `response_mask` [batch, time]: whole responses, which begin at time 0.
    """
    jumps = (values - values.roll(1, dims=1))[:, window_length::window_length]
    mask = response_mask[:, window_length::window_length]
    return BorderValueJump(
        mean=masked_mean(jumps, mask), mean_absolute=masked_mean(jumps.abs(), mask), num_borders=mask.sum()
    )


@torch.no_grad()
def top_percent_weight(advantages: Tensor, policy_mask: Tensor) -> Tensor:
    """Share of the sum of |A| over the mask that its top percent of tokens carries; NaN where all are 0.

    A token's |A| / N is its weight in the policy's gradient where the ratio is 1. Equal weights give 0.01; at least one
    token counts.
    """
    weights = advantages[policy_mask].abs()
    num_top = math.ceil(len(weights) / 100)
    total = weights.sum()
    return torch.where(total > 0, weights.topk(num_top).values.sum() / total, math.nan)


@torch.no_grad()
def largest_row_share(advantages: Tensor, logprobs: Tensor, policy_mask: Tensor) -> Tensor:
    """Share of the sum of |A_t| (1 - pi_t) over the mask that the row with the most carries; NaN where all are 0.

    1 - pi_t is the derivative of log pi_t by the logit of the sampled token: a token that the policy is sure of pulls
    at nothing, whatever its advantage. `logprobs` [batch, time] are those of the sampled tokens; equal rows give
    1 / batch.
    """
    pulls = torch.where(policy_mask, advantages.abs() * -torch.expm1(logprobs.clamp(max=0.0)), 0.0).sum(dim=1)
    total = pulls.sum()
    return torch.where(total > 0, pulls.max() / total, math.nan)


@torch.no_grad()
def probability_gap(old_logprobs: Tensor, rollout_logprobs: Tensor, mask: Tensor) -> ProbabilityGap:
    """Gap between the learner's probability of each sampled token and that of the engine which sampled it."""
    gaps = torch.where(mask, old_logprobs.exp() - rollout_logprobs.exp(), 0.0).abs()
    return ProbabilityGap(
        mean=masked_mean(gaps, mask),
        largest=gaps.max() if gaps.numel() else gaps.new_zeros(()),
        kl=masked_mean(k3_kl(rollout_logprobs, old_logprobs, mask), mask),
    )
