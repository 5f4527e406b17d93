"""What the compared systems do differently in a training step: one small class each, behind one Protocol."""

from collections.abc import Callable

from learner.models.outputs import Policy
from learner.systems.clipped import ClippedObjective
from learner.systems.contract import Objective, PolicyTokens
from learner.systems.estimators import lambda_return_targets, monte_carlo_targets
from learner.systems.geppo import ReuseObjective
from learner.systems.ppo_ewma import WeightAverageObjective
from tppo.config import Config
from tppo.config.presets import Algorithm

OBJECTIVES: dict[Algorithm, Callable[[Config, Policy], Objective]] = {
    "tppo": lambda config, _: ClippedObjective(config, monte_carlo_targets),
    "ppo": lambda config, _: ClippedObjective(config, lambda_return_targets),
    "vapo": lambda config, _: ClippedObjective(config, monte_carlo_targets),
    "ppo-ewma": WeightAverageObjective,
    "geppo": ReuseObjective,
}


def objective_for(config: Config, policy: Policy) -> Objective:
    """What `run.algorithm` names."""
    return OBJECTIVES[config.run.algorithm](config, policy)


__all__ = ["Objective", "PolicyTokens", "objective_for"]
