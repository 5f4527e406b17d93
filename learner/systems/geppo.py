"""GePPO (arXiv 2111.00072): a step trains on its own rows and on those of the last M - 1 steps.

So each token trains up to M times, by design. What keeps the updates bounded: the clip sits around the present policy
as seen from the one that sampled, its range shrinks with the mean number of uses, the advantages are corrected by
V-trace, and the learning rate follows the total variation by which the step moved the policy.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from learner.algorithm import geppo
from learner.algorithm.losses import PolicyLoss
from learner.models.outputs import Policy
from learner.step.experience import Estimates, Sampled, joined
from learner.step.metrics import Metrics
from learner.step.optimization import Optimization
from learner.systems.contract import Advantages, PolicyTokens
from learner.systems.estimators import fixed_lambda, lambda_return_targets, window_logprobs
from tppo.config import Config


class ReuseObjective:
    """See `Objective`; keeps the rows of the last M - 1 steps, newest first."""

    def __init__(self, config: Config, policy: Policy) -> None:
        assert config.importance_cap is not None, "the preset sets it"
        self._config, self._policy, self._trace_cap = config, policy, config.importance_cap
        self._kept: list[Sampled] = []
        self._clip_range = config.algorithm.clip_ratio_low

    def trained_rows(self, sampled: Sampled, *, policy_version: int) -> Sampled:
        """The rows that arrived, and those that were kept."""
        rows = joined([sampled, *self._kept])
        self._kept = [sampled, *self._kept][: self._config.algorithm.num_reused_batches - 1]
        ages = (policy_version - rows.token_versions[rows.response_mask]).clamp(min=0)
        self._clip_range = geppo.reuse_clip_range(
            self._config.algorithm.clip_ratio_low, policy_weights=torch.bincount(ages, minlength=1).tolist()
        )
        return rows

    def advantages(self, sampled: Sampled, values: Tensor, boundary_values: Tensor) -> Advantages:
        """V-trace towards the present policy."""
        old_logprobs = window_logprobs(self._policy, sampled, self._config)
        raw = geppo.vtrace_advantages(
            sampled.window_rewards(),
            values,
            sampled.response_mask,
            sampled.is_finished,
            old_logprobs=old_logprobs,
            rollout_logprobs=sampled.rollout_logprobs,
            gamma=self._config.algorithm.gamma,
            gae_lambda=fixed_lambda(self._config),
            importance_cap=self._trace_cap,
        )
        return Advantages(raw, old_logprobs)

    def value_targets(self, sampled: Sampled, estimates: Estimates, rows: Sequence[int]) -> list[Tensor]:
        """V-trace's: the corrected advantages on top of the values."""
        return lambda_return_targets(sampled, estimates, rows, self._config)

    def policy_loss(self, tokens: PolicyTokens) -> PolicyLoss:
        """Clipped around pi_old / pi_rollout."""
        return geppo.geppo_policy_loss(
            tokens.logprobs,
            tokens.old_logprobs,
            tokens.advantages,
            tokens.policy_mask,
            rollout_logprobs=tokens.rollout_logprobs,
            clip_range=self._clip_range,
            normalizer=tokens.normalizer,
        )

    def after_update(self) -> None:
        """Nothing."""

    def after_step(self, sampled: Sampled, estimates: Estimates, optimization: Optimization) -> Metrics:
        """Adapt the learning rate to how far the step has moved the policy."""
        assert estimates.old_logprobs is not None
        total_variation = float(
            geppo.estimated_total_variation(
                window_logprobs(self._policy, sampled, self._config),
                estimates.old_logprobs,
                sampled.rollout_logprobs,
                estimates.policy_mask,
            )
        )
        optimization.lr_scale = geppo.adapted_learning_rate(
            optimization.lr_scale,
            total_variation=total_variation,
            clip_range=self._clip_range,
            factor=self._config.algorithm.lr_adaptation_factor,
        )
        return {
            "actor/total_variation": total_variation,
            "actor/clip_range": self._clip_range,
            "actor/lr_scale": optimization.lr_scale,
        }

    def state_dict(self) -> dict[str, Any]:
        """The kept rows."""
        return {"kept": [batch.as_columns() for batch in self._kept]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`."""
        self._kept = [Sampled(**columns) for columns in state["kept"]]
