"""T-PPO, PPO and VAPO: the clipped ratio to the policy before the step. They differ in windows, lambdas and clips.

T-PPO and VAPO fit the value model to what came in the end (decoupled GAE), PPO to lambda-returns.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from learner.algorithm import losses
from learner.step.experience import Estimates, Sampled
from learner.step.metrics import Metrics
from learner.step.optimization import Optimization
from learner.systems.contract import Advantages, PolicyTokens
from learner.systems.estimators import ValueTargets, window_advantages
from tppo.config import Config


@dataclass(frozen=True, slots=True)
class ClippedObjective:
    """See `Objective`; nothing is kept between steps."""

    config: Config
    targets: ValueTargets

    def trained_rows(self, sampled: Sampled, *, policy_version: int) -> Sampled:
        """Each row once, in the step that it arrived for."""
        return sampled

    def advantages(self, sampled: Sampled, values: Tensor, boundary_values: Tensor) -> Advantages:
        """EGAE."""
        return Advantages(window_advantages(sampled, values, boundary_values, self.config))

    def value_targets(self, sampled: Sampled, estimates: Estimates, rows: Sequence[int]) -> list[Tensor]:
        """As given."""
        return self.targets(sampled, estimates, rows, self.config)

    def policy_loss(self, tokens: PolicyTokens) -> losses.PolicyLoss:
        """Decoupled from the sampling policy where an importance cap is set."""
        options, cap = self.config.algorithm, self.config.importance_cap
        return losses.policy_loss(
            tokens.logprobs,
            tokens.old_logprobs,
            tokens.advantages,
            tokens.policy_mask,
            clip_low=options.clip_ratio_low,
            clip_high=options.clip_ratio_high,
            dual_clip=options.clip_ratio_c,
            rollout_logprobs=None if cap is None else tokens.rollout_logprobs,
            importance_cap=cap,
            normalizer=tokens.normalizer,
        )

    def after_update(self) -> None:
        """Nothing."""

    def after_step(self, sampled: Sampled, estimates: Estimates, optimization: Optimization) -> Metrics:
        """Nothing to add."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing."""
