"""What a training step asks of the system that it trains."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from learner.algorithm.losses import PolicyLoss
from learner.models.passes.packing import PackedBatch
from learner.step.estimation.experience import Estimates, Sampled
from learner.step.measurements.metrics import Metrics
from learner.step.updates.optimization import Optimization


@dataclass(frozen=True, slots=True)
class Predictions:
    """What the two models say of the tokens of the windows before any update; [batch, time]."""

    values: Tensor  # V(s_t)
    boundary_values: Tensor  # [batch]: of the states after the last tokens
    old_logprobs: Tensor | None = None  # where the estimator needs them


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

    What most systems do alike has a body here, which they inherit. Where each model has processes of its own, those of
    the value model call what is not said to be the policy's.
    """

    needs_old_logprobs: bool = False  # for its advantages

    def trained_rows(self, sampled: Sampled, *, policy_version: int) -> Sampled:
        """The rows to train on; those that arrived come first. By default each row once, in the step it arrived for."""
        return sampled

    def old_logprobs(self, sampled: Sampled) -> Tensor:
        """The policy's: of the windows' tokens before the update [batch, time], where the system needs them."""
        raise AssertionError(f"{type(self).__name__} needs none")

    def advantages(self, sampled: Sampled, predictions: Predictions) -> Tensor:
        """Of the windows' tokens [batch, time]."""

    def value_targets(self, sampled: Sampled, estimates: Estimates) -> Tensor:
        """The value model's target for each token of the responses [batch, longest response].

        Rows without returns may hold anything.
        """

    def policy_loss(self, tokens: PolicyTokens) -> PolicyLoss:
        """The policy's: the loss of one micro-batch, as its part of the mini-batch's mean."""

    def after_update(self) -> None:
        """The policy's: it has moved by one optimizer update."""
        return

    def after_step(self, sampled: Sampled, estimates: Estimates, optimization: Optimization) -> Metrics:
        """The policy's: all of its updates are done; the system's own numbers."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Tensors, numbers, lists and dictionaries that a resume needs."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`."""
        return
