"""What a training step asks of the system that it trains."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from learner.algorithm.losses import PolicyLoss
from learner.models.passes.packing import PackedBatch
from learner.step.estimation.experience import Estimates, Sampled
from learner.step.measurements.metrics import Metrics
from learner.step.updates.optimization import Optimization


@dataclass(frozen=True, slots=True)
class Advantages:
    """What an estimator finds for the tokens of the windows; [batch, time]."""

    raw: Tensor
    old_logprobs: Tensor | None = None  # under the policy before the update, where the estimator needed them


@dataclass(frozen=True, slots=True)
class PolicyTokens:
    """One micro-batch of the policy's update, flat [n]."""

    batch: PackedBatch
    logprobs: Tensor  # with gradient
    old_logprobs: Tensor  # before the step's first update
    rollout_logprobs: Tensor
    advantages: Tensor
    policy_mask: Tensor
    normalizer: int  # tokens that count in the whole mini-batch


class System(Protocol):
    """One of the compared systems. Called in this order in each step; what it keeps between steps is its state.

    What most systems do alike has a body here, which they inherit.
    """

    def trained_rows(self, sampled: Sampled, *, policy_version: int) -> Sampled:
        """The rows to train on; those that arrived come first. By default each row once, in the step it arrived for."""
        return sampled

    def advantages(self, sampled: Sampled, values: Tensor, boundary_values: Tensor) -> Advantages:
        """From values [batch, time] and those of the states after the last tokens [batch]."""

    def value_targets(self, sampled: Sampled, estimates: Estimates, rows: Sequence[int]) -> list[Tensor]:
        """Per row, all of them finished: the value model's target for each token of the response."""

    def policy_loss(self, tokens: PolicyTokens) -> PolicyLoss:
        """The loss of one micro-batch, as its part of the mini-batch's mean."""

    def after_update(self) -> None:
        """The policy has moved by one optimizer update."""
        return

    def after_step(self, sampled: Sampled, estimates: Estimates, optimization: Optimization) -> Metrics:
        """All updates of the policy are done; the system's own numbers."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Tensors, numbers, lists and dictionaries that a resume needs."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`."""
        return
