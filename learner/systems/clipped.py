"""T-PPO, PPO and VAPO: the clipped ratio to the policy before the step. They differ in windows, lambdas and clips.

T-PPO and VAPO fit the value model to what came in the end (decoupled GAE), PPO to lambda-returns.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from learner.algorithm import losses
from learner.algorithm.egae import monte_carlo_returns
from learner.algorithm.importance import Limit, masked, truncated
from learner.algorithm.rewards import terminal_rewards
from learner.step.estimation.estimators import Estimators
from learner.step.estimation.experience import Estimates, Sampled
from learner.step.system import PolicyTokens, Predictions, System

IMPORTANCE_LIMITS: Mapping[str, Limit] = {"truncate": truncated, "mask": masked}


@dataclass(frozen=True)
class ClippedSystem(System):
    """T-PPO and VAPO; see `System`. It keeps nothing between steps."""

    estimators: Estimators

    def advantages(self, sampled: Sampled, predictions: Predictions) -> Tensor:
        return self.estimators.window_advantages(sampled, predictions.values, predictions.boundary_values)

    def value_targets(self, sampled: Sampled, estimates: Estimates) -> Tensor:
        """R_t of the sampled tokens of all windows of each response: what came in the end, discounted (Monte-Carlo).

        So the value model's lambda is 1, whatever the policy's is.
        """
        rewards = terminal_rewards(sampled.rewards, estimates.value_mask)
        return monte_carlo_returns(rewards, estimates.value_mask, gamma=self.estimators.algorithm.gamma)

    def policy_loss(self, tokens: PolicyTokens) -> losses.PolicyLoss:
        """Importance sampling corrects for the policy that sampled (decoupled loss) where a cap is set."""
        algorithm = self.estimators.algorithm
        cap = algorithm.importance_cap
        assert cap != "none", "Config.importance_cap says it as None"
        return losses.policy_loss(
            tokens.logprobs,
            tokens.old_logprobs,
            tokens.advantages,
            tokens.policy_mask,
            clip_low=algorithm.clip_ratio_low,
            clip_high=algorithm.clip_ratio_high,
            dual_clip=algorithm.clip_ratio_c,
            rollout_logprobs=None if cap is None else tokens.rollout_logprobs,
            importance_cap=cap,
            importance_limit=IMPORTANCE_LIMITS[algorithm.importance_mode],
            normalizer=tokens.normalizer,
        )


class PpoSystem(ClippedSystem):
    """PPO: one lambda for both models."""

    def value_targets(self, sampled: Sampled, estimates: Estimates) -> Tensor:
        return self.estimators.lambda_return_targets(sampled, estimates)
