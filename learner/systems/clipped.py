"""T-PPO, PPO and VAPO: the clipped ratio to the policy before the step. They differ in windows, lambdas and clips.

T-PPO and VAPO fit the value model to what came in the end (decoupled GAE), PPO to lambda-returns.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from learner.algorithm import losses
from learner.step.estimators import Estimators
from learner.step.experience import Estimates, Sampled
from learner.step.system import Advantages, PolicyTokens, System

ValueTargets = Callable[[Sampled, Estimates, Sequence[int]], list[Tensor]]


@dataclass(frozen=True)
class ClippedSystem(System):
    """See `System`; it keeps nothing between steps."""

    estimators: Estimators
    targets: ValueTargets

    def advantages(self, sampled: Sampled, values: Tensor, boundary_values: Tensor) -> Advantages:
        return Advantages(self.estimators.window_advantages(sampled, values, boundary_values))

    def value_targets(self, sampled: Sampled, estimates: Estimates, rows: Sequence[int]) -> list[Tensor]:
        return self.targets(sampled, estimates, rows)

    def policy_loss(self, tokens: PolicyTokens) -> losses.PolicyLoss:
        """Importance sampling corrects for the policy that sampled (decoupled loss) where a cap is set."""
        algorithm = self.estimators.algorithm
        is_decoupled = algorithm.importance_cap is not None
        return losses.policy_loss(
            tokens.logprobs,
            tokens.old_logprobs,
            tokens.advantages,
            tokens.policy_mask,
            clip_low=algorithm.clip_ratio_low,
            clip_high=algorithm.clip_ratio_high,
            dual_clip=algorithm.clip_ratio_c,
            rollout_logprobs=tokens.rollout_logprobs if is_decoupled else None,
            importance_cap=algorithm.importance_cap,
            normalizer=tokens.normalizer,
        )
