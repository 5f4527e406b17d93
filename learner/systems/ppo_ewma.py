"""PPO-EWMA (arXiv 2110.00641): the clip is centred on a moving average of the weights instead of the step's first ones.

So how far the policy may go no longer depends on how many updates a step makes. The average is a second copy of the
policy; it moves after each optimizer update, and scores each mini-batch as it then is.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from learner.algorithm.losses import PolicyLoss
from learner.algorithm.ppo_ewma import decay_from_center_of_mass, ppo_ewma_policy_loss, update_weight_average
from learner.models.passes.outputs import Policy, token_logprobs, with_weights
from learner.parallel.gathering import placed_like
from learner.step.estimation.estimators import Estimators
from learner.step.estimation.experience import Estimates, Sampled
from learner.step.system import PolicyTokens, Predictions, System
from tppo.process.event_loop import warn_on_event_loop


class PpoEwmaSystem(System):
    """See `System`; keeps the averaged weights and how much history they hold."""

    def __init__(self, estimators: Estimators, policy: Policy) -> None:
        assert isinstance(estimators.algorithm.importance_cap, float), "the preset sets it"
        warn_on_event_loop("copying of the policy")
        self._estimators, self._policy = estimators, policy
        self._importance_cap = estimators.algorithm.importance_cap
        self._average = policy.weights.frozen_copy()
        self._total_weight = 1.0
        self._decay = decay_from_center_of_mass(estimators.algorithm.ewma_center_of_mass)

    def advantages(self, sampled: Sampled, predictions: Predictions) -> Tensor:
        return self._estimators.window_advantages(sampled, predictions.values, predictions.boundary_values)

    def value_targets(self, sampled: Sampled, estimates: Estimates) -> Tensor:
        return self._estimators.lambda_return_targets(sampled, estimates)

    def policy_loss(self, tokens: PolicyTokens) -> PolicyLoss:
        """Against the average as it is at this update: `actor/ppo_kl` and `actor/pg_clipfrac` are those to it."""
        algorithm = self._estimators.algorithm
        # At the temperature that the policy has now.
        with torch.no_grad():
            proximal_logprobs = token_logprobs(with_weights(self._policy, self._average), tokens.batch)
        return ppo_ewma_policy_loss(
            tokens.logprobs,
            proximal_logprobs,
            tokens.advantages,
            tokens.policy_mask,
            rollout_logprobs=tokens.rollout_logprobs,
            clip_low=algorithm.clip_ratio_low,
            clip_high=algorithm.clip_ratio_high,
            importance_cap=self._importance_cap,
            normalizer=tokens.normalizer,
        )

    def after_update(self) -> None:
        self._total_weight = update_weight_average(
            self._average.parameters(),
            self._policy.weights.parameters(),
            total_weight=self._total_weight,
            decay=self._decay,
        )
        self._average.cast()

    def state_dict(self) -> dict[str, Any]:
        averages = {name: master.detach() for name, master in self._average.masters.items()}
        return {"averages": averages, "total_weight": self._total_weight}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name, master in self._average.masters.items():
            master.copy_(placed_like(master, state["averages"][name]))
        self._average.cast()
        self._total_weight = float(state["total_weight"])
