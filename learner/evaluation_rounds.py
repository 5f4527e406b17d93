"""When the policy is evaluated, with which weights, and how likely it is to answer by the worked solutions."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping

from torch import Tensor

from learner.exchange.weight_publisher import Snapshot
from learner.persistence.deferred_weights import DeferredWeights
from learner.persistence.manifest import DamagedError
from learner.rollouts.evaluation import Evaluator, SolutionProbabilities
from learner.step.trainer import Trainer
from tppo.config.schema import Config, EvaluationSection

logger = logging.getLogger(__name__)


class EvaluationRounds:
    """The rounds of one run; what they find is gathered by the evaluator."""

    def __init__(
        self,
        config: Callable[[], Config],
        evaluator: Evaluator,
        trainer: Trainer,
        deferred: DeferredWeights,
    ) -> None:
        """`config` is the one in force."""
        self._config = config
        self.deferred = deferred
        self._evaluator = evaluator
        self._trainer = trainer

    @property
    def section(self) -> EvaluationSection:
        """As it is in force."""
        return self._config().evaluation

    def start_if_due(self, step: int) -> None:
        """Start the round of this step, unless its weights are kept for the time after training."""
        if self._is_due(step) and not self.section.after_training:
            self._evaluator.start(step, min_policy_version=step)

    async def defer_if_due(self, step: int, snapshot: Snapshot) -> None:
        """Keep the weights that this step has published for the time after training."""
        if self._is_due(step) and self.section.after_training:
            await asyncio.to_thread(self._defer, step, snapshot)

    def _defer(self, step: int, snapshot: Snapshot) -> None:
        self.deferred.put(step, snapshot.tensors, known_digest=snapshot.digest)

    def _is_due(self, step: int) -> bool:
        frequency = self.section.test_freq
        if step == 0:
            return frequency > 0 and self.section.val_before_train
        return frequency > 0 and (step == self._config().run.total_training_steps or step % frequency == 0)

    @property
    def is_under_way(self) -> bool:
        """Whether a round waits for windows or scores."""
        return self._evaluator.is_under_way

    async def evaluate_deferred(
        self,
        publish: Callable[[int, Mapping[str, Tensor]], Awaitable[None]],
        finish: Callable[[int, Mapping[str, Tensor]], Awaitable[bool]],
    ) -> None:
        """One deferred round after the other, until `finish` says that one is not over; damaged weights have none.

        A generator takes only what is newer than what it has; a resumed learner finds the same version.
        """
        for step in self.deferred.steps():
            serving_version = self._config().run.total_training_steps + 1 + step
            try:
                weights = await asyncio.to_thread(self.deferred.weights, step)
            except DamagedError as error:
                logger.error("step %d is not evaluated: %s", step, error)
            else:
                await publish(serving_version, weights)
                self._evaluator.start(step, min_policy_version=serving_version)
                if not await finish(step, weights):
                    return
            self.deferred.delete(step)

    async def add_solutions(self, step: int, weights: Mapping[str, Tensor] | None = None) -> None:
        """The exact part of the round of this step, where it has one; the policy must not change meanwhile.

        `weights`: those that were deferred, in place of the policy's present ones.
        """
        if not self._evaluator.awaits_solutions(step):
            return
        began = time.monotonic()
        probabilities = await asyncio.to_thread(
            self._trainer.solution_probabilities,
            self._evaluator.main_prompts,
            temperature=self.section.temperature,
            weights=weights,
        )
        seconds = time.monotonic() - began
        self._evaluator.add_solutions(step, SolutionProbabilities(probabilities, seconds))
        logger.info("step %d: %d worked solutions took %.2f s", step, len(probabilities), seconds)
