"""PPO-EWMA (arXiv 2110.00641), a baseline: the clip's centre is a moving average of the weights, not the last version.

Three policies: pi is trained, pi_proximal (the average) bounds how far it may go, pi_rollout sampled the tokens.
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from learner.algorithm.importance import bounded_log_ratio
from learner.algorithm.losses import PolicyLoss, pessimistic_surrogate, summarize


@torch.no_grad()
def update_weight_average(
    averages: Iterable[Tensor], parameters: Iterable[Tensor], *, total_weight: float, decay: float
) -> float:
    """Move `averages` in place one step towards `parameters`; return the new total weight, which begins at 1.

        w' = decay w + 1,    average <- average (decay w / w') + parameter / w'

    The total weight corrects the bias: all versions so far, the first included, weigh decay^age.
    """
    new_total_weight = decay * total_weight + 1.0
    for average, parameter in zip(averages, parameters, strict=True):
        average.mul_(decay * total_weight / new_total_weight).add_(parameter, alpha=1.0 / new_total_weight)
    return new_total_weight


def decay_from_center_of_mass(center_of_mass: float) -> float:
    """The decay whose average is `center_of_mass` updates old: center = decay / (1 - decay).

    The paper's scaling rule: a batch c times smaller needs a centre of mass c times larger (in updates).
    """
    return center_of_mass / (1.0 + center_of_mass)


def ppo_ewma_policy_loss(
    logprobs: Tensor,
    proximal_logprobs: Tensor,
    advantages: Tensor,
    policy_mask: Tensor,
    *,
    rollout_logprobs: Tensor,
    clip_low: float,
    clip_high: float,
    importance_cap: float = 100.0,
    normalizer: float | Tensor | None = None,
) -> PolicyLoss:
    """Mean over the mask of max(-A pi/pi_rollout, -A clip(pi/pi_prox, 1 - clip_low, 1 + clip_high) pi_prox/pi_rollout).

    Ratios stay in log space up to the end. Where pi/pi_rollout exceeds `importance_cap`, pi_rollout is raised until it
    does not: the ratio is then capped without cutting off its gradient. Within the clip both terms are the same number,
    so that rounding clips no token.
    """
    behaviour_logprobs = torch.maximum(rollout_logprobs, logprobs.detach() - math.log(importance_cap))
    log_ratio = bounded_log_ratio(logprobs, behaviour_logprobs, policy_mask)
    proximal_log_ratio = bounded_log_ratio(logprobs, proximal_logprobs, policy_mask)
    proximal_offset = bounded_log_ratio(proximal_logprobs, behaviour_logprobs, policy_mask)

    held_log_ratio = proximal_log_ratio.clamp(math.log1p(-clip_low), math.log1p(clip_high))
    is_within_clip = held_log_ratio == proximal_log_ratio
    clipped_log_ratio = torch.where(is_within_clip, log_ratio, held_log_ratio + proximal_offset)
    surrogate = pessimistic_surrogate(log_ratio.exp(), clipped_log_ratio.exp(), advantages)
    return summarize(
        surrogate,
        policy_mask,
        log_ratio=proximal_log_ratio,
        weights=proximal_offset.exp(),
        normalizer=normalizer,
    )
