"""The losses of a T-PPO step: clipped policy loss, clipped value loss, and two terms that may be added.

Every function takes tensors of one shape, [batch, time] or flat [tokens], and a boolean mask of that shape. What lies
under a False of the mask, NaN included, reaches neither a loss nor a gradient.

A mini-batch may come in parts: give each part's call the whole mini-batch's token count as `normalizer`, and the
parts' losses, and so their gradients, add up to the mini-batch's.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from learner.algorithm.arguments import require_masks, require_shape
from learner.algorithm.importance import Limit, bounded_log_ratio, importance_weights, truncated
from learner.algorithm.masked_stats import masked_mean


@dataclass(frozen=True, slots=True)
class PolicyLoss:
    """A policy loss and, without gradient, what to log with it: means over the given tokens, and three per token."""

    loss: Tensor
    clip_fraction: Tensor  # share of tokens whose clipped term exceeds the unclipped one
    dual_clip_fraction: Tensor  # share of tokens held by the upper bound for negative advantages
    approx_kl: Tensor  # mean of old - new log-probability, the "k1" estimate of KL(old || new)
    importance_weight_mean: Tensor
    num_tokens: Tensor
    importance_weights: Tensor  # per token: their effective sample size is one of a whole mini-batch
    ratio: Tensor  # per token: of the policy to the clip's reference
    is_clipped: Tensor  # per token: held by one of the two clips


@dataclass(frozen=True, slots=True)
class ValueLoss:
    """A value loss and what to log with it; all but `loss` are without gradient."""

    loss: Tensor
    clip_fraction: Tensor  # share of tokens whose clipped error exceeds the unclipped one
    num_tokens: Tensor


@dataclass(frozen=True, slots=True)
class ClippedSurrogate:
    """J_t per token, and where each of the two clips decided it."""

    per_token: Tensor
    is_clipped: Tensor
    is_dual_clipped: Tensor


def pessimistic_surrogate(ratio: Tensor, clipped_ratio: Tensor, advantages: Tensor) -> ClippedSurrogate:
    """J = max(-A rho, -A rho_clipped): moving on past the clip earns nothing, moving back always does."""
    unclipped = -advantages * ratio
    clipped = -advantages * clipped_ratio
    is_clipped = clipped > unclipped
    return ClippedSurrogate(torch.maximum(unclipped, clipped), is_clipped, torch.zeros_like(is_clipped))


def clipped_surrogate(
    ratio: Tensor, advantages: Tensor, *, clip_low: float, clip_high: float, dual_clip: float | None
) -> ClippedSurrogate:
    """J = max(-A rho, -A clip(rho, 1 - clip_low, 1 + clip_high)), and where A < 0 at most -A dual_clip.

    Two clip bounds are "clip-higher" (DAPO, VAPO equation 7); without the dual clip, a token with A < 0 that the
    policy has made much more likely would have an unbounded loss.
    """
    surrogate = pessimistic_surrogate(ratio, ratio.clamp(1.0 - clip_low, 1.0 + clip_high), advantages)
    if dual_clip is None:
        return surrogate
    upper_bound = -advantages * dual_clip
    is_dual_clipped = (advantages < 0) & (surrogate.per_token > upper_bound)
    bounded = torch.where(is_dual_clipped, upper_bound, surrogate.per_token)
    return replace(surrogate, per_token=bounded, is_dual_clipped=is_dual_clipped)


def policy_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    policy_mask: Tensor,
    *,
    clip_low: float,
    clip_high: float,
    dual_clip: float | None = 10.0,
    rollout_logprobs: Tensor | None = None,
    importance_cap: float | None = None,
    importance_limit: Limit = truncated,
    normalizer: float | Tensor | None = None,
) -> PolicyLoss:
    """L = sum of w_t J_t over the mask / N, with rho = pi / pi_old and w = min(pi_old / pi_rollout, importance_cap).

    `rollout_logprobs` makes it the decoupled loss (arXiv 2505.24298): w corrects for tokens sampled by older weights or
    by another engine. Without them w = 1. `importance_limit` says what becomes of a w above the cap. `normalizer` is N:
    by default the number of tokens in `policy_mask`.
    Only `logprobs` gets a gradient.
    """
    require_masks(policy_mask=policy_mask)
    require_shape(
        policy_mask.shape,
        logprobs=logprobs,
        old_logprobs=old_logprobs,
        advantages=advantages,
        rollout_logprobs=rollout_logprobs,
    )
    old_logprobs, advantages = old_logprobs.detach(), advantages.detach()
    log_ratio = bounded_log_ratio(logprobs, old_logprobs, policy_mask)
    surrogate = clipped_surrogate(
        log_ratio.exp(), advantages, clip_low=clip_low, clip_high=clip_high, dual_clip=dual_clip
    )
    behaviour_logprobs = old_logprobs if rollout_logprobs is None else rollout_logprobs
    weights = importance_weights(
        old_logprobs, behaviour_logprobs, policy_mask, cap=importance_cap, limit=importance_limit
    )
    weighted_surrogate = replace(surrogate, per_token=weights * surrogate.per_token)
    return summarize(weighted_surrogate, policy_mask, log_ratio=log_ratio, weights=weights, normalizer=normalizer)


def summarize(
    surrogate: ClippedSurrogate,
    policy_mask: Tensor,
    *,
    log_ratio: Tensor,
    weights: Tensor,
    normalizer: float | Tensor | None,
) -> PolicyLoss:
    """The surrogate's mean and what to log with it; `log_ratio` is that of the policy to the clip's reference."""
    log_ratio, num_tokens = log_ratio.detach(), policy_mask.sum()
    logged = torch.stack([surrogate.is_clipped.to(weights), surrogate.is_dual_clipped.to(weights), -log_ratio, weights])
    sums = torch.where(policy_mask, logged, 0.0).flatten(1).sum(dim=1)
    clip_fraction, dual_clip_fraction, approx_kl, weight_mean = (sums / num_tokens.clamp(min=1)).unbind()
    return PolicyLoss(
        loss=token_mean(surrogate.per_token, policy_mask, normalizer),
        clip_fraction=clip_fraction,
        dual_clip_fraction=dual_clip_fraction,
        approx_kl=approx_kl,
        importance_weight_mean=weight_mean,
        num_tokens=num_tokens,
        importance_weights=weights,
        ratio=log_ratio.exp(),
        is_clipped=(surrogate.is_clipped | surrogate.is_dual_clipped) & policy_mask,
    )


def value_loss(
    values: Tensor,
    old_values: Tensor,
    returns: Tensor,
    value_mask: Tensor,
    *,
    clip_low: float = 0.5,
    clip_high: float = 0.6,
    token_weights: Tensor | None = None,
) -> ValueLoss:
    """L = 1/2 sum of weight_t max((V - R)^2, (V_clip - R)^2), V_clip = clip(V, V_old - clip_low, V_old + clip_high).

    An infinite bound clips nothing on its side. `token_weights` should add up to 1 over the mini-batch: by default all
    tokens of this call weigh the same. Only `values` gets a gradient.
    """
    require_masks(value_mask=value_mask)
    require_shape(value_mask.shape, values=values, old_values=old_values, returns=returns, token_weights=token_weights)
    old_values, returns = old_values.detach(), returns.detach()
    errors = torch.where(value_mask, values - returns, 0.0).square()
    clipped_values = values.clamp(old_values - clip_low, old_values + clip_high)
    clipped_errors = torch.where(value_mask, clipped_values - returns, 0.0).square()
    pessimistic_errors = torch.maximum(errors, clipped_errors)
    if token_weights is None:
        weighted_sum = token_mean(pessimistic_errors, value_mask)
    else:
        weighted_sum = (torch.where(value_mask, token_weights, 0.0) * pessimistic_errors).sum()
    return ValueLoss(
        loss=0.5 * weighted_sum,
        clip_fraction=masked_mean((clipped_errors > errors).float(), value_mask),
        num_tokens=value_mask.sum(),
    )


def token_mean_weights(value_mask: Tensor) -> Tensor:
    """Weights [batch, time] with which a sum becomes the mean over all tokens of the mask."""
    return torch.where(value_mask, 1.0 / value_mask.sum(), 0.0)


def row_mean_weights(value_mask: Tensor) -> Tensor:
    """Weights [batch, time] with which a sum becomes the mean over non-empty rows of each row's mean."""
    row_lengths = value_mask.sum(dim=1, keepdim=True)
    num_rows = (row_lengths > 0).sum()
    return torch.where(value_mask, 1.0 / (row_lengths * num_rows), 0.0)


def positive_example_loss(logprobs: Tensor, mask: Tensor, *, normalizer: float | Tensor | None = None) -> Tensor:
    """L_NLL = -sum of log pi over the mask / N: imitation of the responses that were right (VAPO equation 9)."""
    return token_mean(-logprobs, mask, normalizer)


def router_imbalance(router_logits: Tensor, row_lengths: Sequence[int], *, experts_per_token: int) -> Tensor:
    """E sum_e f_e P_e of each row [rows], float32: how unevenly a router spreads a row's tokens over its E experts.

    f_e is the share of the row's tokens that have expert e among their likeliest, P_e its mean probability (Switch
    Transformer, arXiv 2101.03961, equations 4 to 6). An even router has `experts_per_token`. Only P gets a gradient.
    By row, so that it does not depend on which rows share a call. `router_logits` [tokens, E], row after row.
    """
    probabilities = router_logits.float().softmax(dim=-1)
    chosen = torch.zeros_like(probabilities).scatter_(-1, probabilities.topk(experts_per_token).indices, 1.0)
    rows = zip(*(torch.split(of_tokens, list(row_lengths)) for of_tokens in (chosen, probabilities)), strict=True)
    num_experts = router_logits.shape[-1]
    return torch.stack([num_experts * (shares.mean(dim=0) * means.mean(dim=0)).sum() for shares, means in rows])


def k3_kl(logprobs: Tensor, reference_logprobs: Tensor, mask: Tensor) -> Tensor:
    """KL(pi || pi_ref) per token, estimated as e^d - d - 1 with d = log(pi_ref / pi): unbiased and never negative.

    It is a penalty, never a log-ratio: its gradient is zero where both policies agree.
    """
    difference = bounded_log_ratio(reference_logprobs, logprobs, mask)
    return difference.exp() - difference - 1.0


def token_mean(per_token: Tensor, mask: Tensor, normalizer: float | Tensor | None = None) -> Tensor:
    """Sum over the mask divided by `normalizer`, by default the number of its tokens; 0 for an empty mask."""
    if normalizer is None:
        normalizer = mask.sum().clamp(min=1)
    return torch.where(mask, per_token, 0.0).sum() / normalizer
