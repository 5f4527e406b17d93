"""When the policy is evaluated, with which weights, and how likely it is to answer by the worked solutions."""

import asyncio
import logging
import time
from collections.abc import Mapping

from torch import Tensor

from learner.persistence.checkpoint import cloned
from learner.persistence.deferred_weights import DeferredWeights
from learner.rollouts.evaluation import Evaluator, SolutionProbabilities
from learner.step.trainer import Trainer
from tppo.config.schema import EvaluationSection

logger = logging.getLogger(__name__)


class EvaluationRounds:
    """The rounds of one run; what they find is gathered by the evaluator."""

    def __init__(
        self,
        section: EvaluationSection,
        evaluator: Evaluator,
        trainer: Trainer,
        deferred: DeferredWeights,
        *,
        total_training_steps: int,
    ) -> None:
        self.section = section
        self.deferred = deferred
        self._evaluator = evaluator
        self._trainer = trainer
        self._last_step = total_training_steps

    def start_if_due(self, step: int) -> None:
        """Start the round of this step, or keep its weights for the time after training."""
        frequency = self.section.test_freq
        if not frequency or not (step == self._last_step or step % frequency == 0):
            return
        if self.section.after_training:
            self.deferred.put(step, cloned(self._trainer.policy.network))
        else:
            self._evaluator.start(step, min_policy_version=step)

    async def add_solutions(self, step: int, weights: Mapping[str, Tensor] | None = None) -> None:
        """The exact part of the round of this step, where it has one; the policy must not change meanwhile.

        `weights`: those that were deferred, in place of the policy's present ones.
        """
        if not self._evaluator.awaits_solutions(step):
            return
        began = time.monotonic()
        probabilities = await asyncio.to_thread(
            self._trainer.solution_probabilities,
            self._evaluator.prompts,
            temperature=self.section.temperature,
            weights=weights,
        )
        seconds = time.monotonic() - began
        self._evaluator.add_solutions(step, SolutionProbabilities(probabilities, seconds))
        logger.info("step %d: %d worked solutions took %.2f s", step, len(probabilities), seconds)
