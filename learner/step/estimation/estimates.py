"""What a step knows of its rows before any update: values, advantages, and which tokens train.

values  ->  advantages  ->  masks  ->  whitening
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from learner.algorithm import masked_stats, token_filter
from learner.step.estimation.experience import Estimates, Sampled
from learner.step.system import System

if TYPE_CHECKING:  # what computes runs where no configuration library is installed
    from tppo.config.schema import AlgorithmSection

WHITENING = {
    "full": masked_stats.whiten_full,
    "scale_only": masked_stats.scale_only,
    "none": masked_stats.without_whitening,
}


@torch.no_grad()
def estimate(
    sampled: Sampled,
    values: Tensor,
    boundary_values: Tensor,
    *,
    system: System,
    algorithm: "AlgorithmSection",
    policy_version: int,
    max_token_lag: int,
    held_rows: Sequence[int] = (),
) -> Estimates:
    """Of rows that the policy of `policy_version` will train on, but `held_rows`; `values` [batch, time] are V(s_t),
    and `boundary_values` [batch] V of the states after the last tokens.
    """
    advantages = system.advantages(sampled, values, boundary_values)
    in_policy_loss = token_filter.policy_mask(
        sampled.response_mask,
        sampled.is_finished,
        num_ignored_tail_tokens=algorithm.num_ignored_tail_tokens,
    )
    is_recent = token_filter.recent_mask(
        sampled.token_versions, policy_version=policy_version, max_token_lag=max_token_lag
    )
    policy_mask = in_policy_loss & is_recent
    policy_mask[list(held_rows)] = False
    whitened = WHITENING[algorithm.advantage_whitening](advantages.raw, policy_mask)
    return Estimates(
        values=values,
        raw_advantages=advantages.raw,
        advantages=masked_stats.clamp_advantages(whitened),
        policy_mask=policy_mask,
        value_mask=token_filter.value_mask(sampled.all_windows_mask(), sampled.is_finished),
        num_too_old=int((in_policy_loss & ~is_recent).sum()),
        old_logprobs=advantages.old_logprobs,
    )
