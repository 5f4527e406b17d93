"""GePPO (arXiv 2111.00072): a step trains on its own rows and on those of the last M - 1 steps.

So each token trains up to M times, by design. What keeps the updates bounded: the clip sits around the present policy
as seen from the one that sampled, its range shrinks with the mean number of uses, the advantages are corrected by
V-trace, and the learning rate follows the total variation by which the step moved the policy.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from learner.algorithm import geppo
from learner.algorithm.importance import importance_weights
from learner.algorithm.losses import PolicyLoss
from learner.models.passes.outputs import Policy, row_logprobs
from learner.models.passes.packing import pad_rows
from learner.step.estimation.estimators import Estimators
from learner.step.estimation.experience import Estimates, Sampled, joined
from learner.step.measurements.metrics import Metrics
from learner.step.system import PolicyTokens, Predictions, System
from learner.step.updates.optimization import Optimization


class GeppoSystem(System):
    """See `System`; keeps the rows of the last M - 1 steps, newest first."""

    needs_old_logprobs = True

    def __init__(self, estimators: Estimators, policy: Policy | None, *, max_tokens_per_microbatch: int) -> None:
        assert isinstance(estimators.algorithm.importance_cap, float), "the preset sets it"
        self._estimators, self._policy = estimators, policy
        self._algorithm = estimators.algorithm
        self._trace_cap = estimators.algorithm.importance_cap
        self._max_tokens = max_tokens_per_microbatch
        self._kept: list[Sampled] = []
        self._clip_range = self._algorithm.clip_ratio_low

    def trained_rows(self, sampled: Sampled, *, policy_version: int) -> Sampled:
        """The rows that arrived, and those that were kept."""
        rows = joined([sampled, *self._kept])
        self._kept = [sampled, *self._kept][: self._algorithm.num_reused_batches - 1]
        ages = (policy_version - rows.token_versions[rows.response_mask]).clamp(min=0)
        self._clip_range = geppo.reuse_clip_range(
            self._algorithm.clip_ratio_low, policy_weights=torch.bincount(ages, minlength=1).tolist()
        )
        return rows

    def old_logprobs(self, sampled: Sampled) -> Tensor:
        return self._window_logprobs(sampled)

    def advantages(self, sampled: Sampled, predictions: Predictions) -> Tensor:
        """V-trace towards the present policy."""
        assert predictions.old_logprobs is not None
        return geppo.vtrace_advantages(
            sampled.window_rewards(),
            predictions.values,
            sampled.response_mask,
            sampled.is_finished,
            old_logprobs=predictions.old_logprobs,
            rollout_logprobs=sampled.rollout_logprobs,
            gamma=self._algorithm.gamma,
            gae_lambda=self._estimators.fixed_lambda,
            importance_cap=self._trace_cap,
        )

    def value_targets(self, sampled: Sampled, estimates: Estimates) -> Tensor:
        """V + c A, as the authors' release has it: V-trace's target weighs each token's own step, too.

        Of tokens before the window no ratio is known; theirs counts as 1.
        """
        assert estimates.old_logprobs is not None
        weights = importance_weights(
            estimates.old_logprobs, sampled.rollout_logprobs, sampled.response_mask, cap=self._trace_cap
        )
        weighted = replace(estimates, raw_advantages=weights * estimates.raw_advantages)
        return self._estimators.lambda_return_targets(sampled, weighted)

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

    def after_step(self, sampled: Sampled, estimates: Estimates, optimization: Optimization) -> Metrics:
        """Adapt the learning rate to how far the step has moved the policy."""
        assert estimates.old_logprobs is not None
        total_variation = float(
            geppo.estimated_total_variation(
                self._window_logprobs(sampled),
                estimates.old_logprobs,
                sampled.rollout_logprobs,
                estimates.policy_mask,
            )
        )
        optimization.lr_scale = geppo.adapted_learning_rate(
            optimization.lr_scale,
            total_variation=total_variation,
            clip_range=self._clip_range,
            factor=self._algorithm.lr_adaptation_factor,
        )
        return {
            "actor/total_variation": total_variation,
            "actor/clip_range": self._clip_range,
            "actor/lr_scale": optimization.lr_scale,
        }

    def state_dict(self) -> dict[str, Any]:
        return {"kept": [batch.as_columns() for batch in self._kept]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._kept = [Sampled.of_columns(columns) for columns in state["kept"]]

    def _window_logprobs(self, sampled: Sampled) -> Tensor:
        """log pi of the windows' tokens under the policy as it is [batch, time]."""
        assert self._policy is not None, "requested of the policy's processes alone"
        return pad_rows(row_logprobs(self._policy, sampled.window_rows(), max_tokens=self._max_tokens)).values
