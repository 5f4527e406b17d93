"""GePPO (arXiv 2111.00072), a baseline: reuse the tokens of the last M policies, and still bound each update.

PPO's clip around 1 bounds pi against the policy that sampled. With older samples the bound must sit around the current
policy, seen from the older one: around pi_k / pi_rollout, where pi_k is the policy at the start of the update.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from learner.algorithm.egae import at_front, in_place, temporal_differences
from learner.algorithm.importance import bounded_log_ratio, importance_weights
from learner.algorithm.losses import PolicyLoss, pessimistic_surrogate, summarize
from learner.algorithm.masked_stats import masked_mean


def reuse_clip_range(ppo_clip_range: float, *, policy_weights: Sequence[float]) -> float:
    """The clip range that lets M reused policies drift no further than one of PPO's batches would: eps / E[age + 1].

    `policy_weights[i]` is the share of tokens sampled i policies ago. Equal shares give eps * 2 / (M + 1). Where there
    are no tokens, nothing is reused.
    """
    if not any(policy_weights):
        return ppo_clip_range
    mean_reuse = sum((age + 1) * weight for age, weight in enumerate(policy_weights)) / sum(policy_weights)
    return ppo_clip_range / mean_reuse


def geppo_policy_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    policy_mask: Tensor,
    *,
    rollout_logprobs: Tensor,
    clip_range: float,
    normalizer: float | Tensor | None = None,
) -> PolicyLoss:
    """Mean over the mask of max(-A rho, -A clip(rho, centre - clip_range, centre + clip_range)).

    rho = pi / pi_rollout, centre = pi_old / pi_rollout.
    """
    ratio = bounded_log_ratio(logprobs, rollout_logprobs, policy_mask).exp()
    centre = importance_weights(old_logprobs, rollout_logprobs, policy_mask)
    surrogate = pessimistic_surrogate(ratio, ratio.clamp(centre - clip_range, centre + clip_range), advantages)
    log_ratio = bounded_log_ratio(logprobs, old_logprobs, policy_mask)
    return summarize(surrogate, policy_mask, log_ratio=log_ratio, weights=centre, normalizer=normalizer)


@torch.no_grad()
def vtrace_advantages(
    rewards: Tensor,
    values: Tensor,
    response_mask: Tensor,
    is_finished: Tensor,
    *,
    old_logprobs: Tensor,
    rollout_logprobs: Tensor,
    gamma: float,
    gae_lambda: float,
    importance_cap: float = 1.0,
) -> Tensor:
    """Advantages [batch, time] of pi_old from tokens that an older policy sampled, zero where the mask is False.

        A_t = delta_t + gamma lambda c_{t+1} A_{t+1},    c = min(pi_old / pi_rollout, importance_cap)

    With c = 1 this is `extended_gae`; a cut row has the same "hold" boundary. The value model's target
    is V_t + c_t A_t.
    """
    deltas = temporal_differences(rewards, values, response_mask, is_finished, gamma=gamma)
    weights = importance_weights(old_logprobs, rollout_logprobs, response_mask, cap=importance_cap)
    deltas, weights = at_front(deltas, response_mask), at_front(weights, response_mask)
    corrected_advantage = deltas.new_zeros(deltas.shape[0])  # c_{t+1} A_{t+1}
    advantages = torch.empty_like(deltas)
    for t in reversed(range(deltas.shape[1])):
        advantages[:, t] = deltas[:, t] + gamma * gae_lambda * corrected_advantage
        corrected_advantage = weights[:, t] * advantages[:, t]
    return in_place(advantages, response_mask)


@torch.no_grad()
def estimated_total_variation(logprobs: Tensor, old_logprobs: Tensor, rollout_logprobs: Tensor, mask: Tensor) -> Tensor:
    """TV(pi, pi_old) ~ 1/2 mean of |pi / pi_rollout - pi_old / pi_rollout|: half the clip range bounds it."""
    ratio = importance_weights(logprobs, rollout_logprobs, mask)
    centre = importance_weights(old_logprobs, rollout_logprobs, mask)
    return 0.5 * masked_mean((ratio - centre).abs(), mask)


def adapted_learning_rate(
    learning_rate: float, *, total_variation: float, clip_range: float, factor: float = 0.03
) -> float:
    """The next learning rate: lower when pi moved further than clip_range / 2, never higher.

    One of the authors' releases also raises it after small moves. A language model that is sure of nearly every token
    hardly moves by this measure, so that the rate would rise without limit.
    """
    moved_too_far = total_variation > clip_range / 2
    return learning_rate / (1.0 + factor) if moved_too_far else learning_rate
