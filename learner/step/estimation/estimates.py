"""What a step knows of its rows before any update: values, advantages, and which tokens train.

values  ->  advantages  ->  masks  ->  whitening
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor

from learner.algorithm import masked_stats, token_filter
from learner.step.estimation.experience import Estimates, Sampled
from learner.step.system import Predictions, System

if TYPE_CHECKING:  # what computes runs where no configuration library is installed
    from tppo.config.schema import AlgorithmSection

WHITENING = {
    "full": masked_stats.whiten_full,
    "scale_only": masked_stats.scale_only,
    "none": masked_stats.without_whitening,
}


@dataclass(frozen=True, slots=True)
class PolicyMask:
    """Which tokens train the policy; no value is needed to know it."""

    tokens: Tensor  # [batch, time] bool
    num_too_old: int  # left out because their weights were over max_token_lag steps older, or newer

    @classmethod
    def of(
        cls,
        sampled: Sampled,
        *,
        algorithm: "AlgorithmSection",
        policy_version: int,
        max_token_lag: int,
        held_rows: Sequence[int] = (),
    ) -> Self:
        """Of rows that the policy of `policy_version` will train on, but `held_rows`."""
        in_policy_loss = token_filter.policy_mask(
            sampled.response_mask,
            sampled.is_finished,
            num_ignored_tail_tokens=algorithm.num_ignored_tail_tokens,
        )
        is_recent = token_filter.recent_mask(
            sampled.token_versions, policy_version=policy_version, max_token_lag=max_token_lag
        )
        tokens = in_policy_loss & is_recent
        tokens[list(held_rows)] = False
        return cls(tokens, int((in_policy_loss & ~is_recent).sum()))


@torch.no_grad()
def estimate(
    sampled: Sampled, predictions: Predictions, mask: PolicyMask, *, system: System, algorithm: "AlgorithmSection"
) -> Estimates:
    """What follows from the predictions."""
    raw_advantages = system.advantages(sampled, predictions)
    whitened = WHITENING[algorithm.advantage_whitening](raw_advantages, mask.tokens)
    return Estimates(
        values=predictions.values,
        raw_advantages=raw_advantages,
        advantages=masked_stats.clamp_advantages(whitened),
        policy_mask=mask.tokens,
        value_mask=token_filter.value_mask(sampled.all_windows_mask(), sampled.is_finished),
        num_too_old=mask.num_too_old,
        old_logprobs=predictions.old_logprobs,
    )
