"""What the compared systems do differently in a training step: one small class each, behind `learner.step.system`."""

from typing import TYPE_CHECKING

from learner.models.passes.outputs import Policy
from learner.step.estimation.estimators import Estimators
from learner.step.system import System
from learner.systems.clipped import ClippedSystem, PpoSystem
from learner.systems.geppo import GeppoSystem
from learner.systems.ppo_ewma import PpoEwmaSystem

if TYPE_CHECKING:  # what computes runs where no configuration library is installed
    from tppo.config.presets import Algorithm


def system_for(
    algorithm: "Algorithm", policy: Policy | None, estimators: Estimators, *, max_tokens_per_microbatch: int
) -> System:
    """The system that `run.algorithm` names; without a policy, what it asks of the value model alone."""
    match algorithm:
        case "tppo" | "vapo":
            return ClippedSystem(estimators)
        case "ppo":
            return PpoSystem(estimators)
        case "ppo-ewma":
            return PpoSystem(estimators) if policy is None else PpoEwmaSystem(estimators, policy)
        case "geppo":
            return GeppoSystem(estimators, policy, max_tokens_per_microbatch=max_tokens_per_microbatch)


__all__ = ["system_for"]
