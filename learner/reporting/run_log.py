"""Writes what a run leaves to read: `metrics.jsonl`, with its steps and evaluations, its journal, and a log of both."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from learner.reporting import lines as reporting
from learner.reporting.generation_watch import GenerationWatch
from learner.reporting.journal import JournalWriter
from learner.reporting.metrics_log import MetricsLog
from learner.rollouts.evaluation import Evaluation
from learner.rollouts.manager import RolloutManager
from learner.rollouts.rollout import Rollout
from learner.step.progress import TrainingProgress
from learner.step.trainer import StepResult
from tppo.config.schema import EvaluationSection
from tppo.rollout import InboxRecord

logger = logging.getLogger(__name__)

SPOKEN = {"reward/mean": "reward", "response_length/mean": "response length", "policy_lag/mean": "policy lag"}


class RunLog:
    """What the service has to say, in the form of lines."""

    def __init__(
        self,
        section: EvaluationSection,
        manager: RolloutManager,
        *,
        metrics_log: MetricsLog,
        journal: JournalWriter,
        generation: GenerationWatch,
    ) -> None:
        self._section = section
        self._manager = manager
        self._metrics_log = metrics_log
        self._journal = journal
        self._generation = generation

    @property
    def last_error(self) -> str:
        """Why one of the files could not be written the last time; empty when both could."""
        return self._metrics_log.last_error or self._journal.last_error

    def observe(self, record: InboxRecord) -> None:
        """A record of the inbox has arrived."""
        self._generation.note(record)

    def begin(self, incarnation: int, *, step: int) -> None:
        """A life of the learner begins behind `step`."""
        text = f"learner started after training step {step}, incarnation {incarnation}"
        self._journal.event("start", step=step, text=text, incarnation=incarnation)

    def leave(self, *, step: int, total_training_steps: int) -> None:
        """The life ends in order."""
        self._metrics_log.flush()
        what = "all steps are done" if step == total_training_steps else "stopped in order"
        self._journal.event("end", step=step, text=f"{what}, at step {step} of {total_training_steps}")

    def occurrences(self, *, policy_version: int) -> None:
        """Whatever the ledger has noted since."""
        noted, self._manager.ledger.occurrences = self._manager.ledger.occurrences, []
        if noted:
            self._journal.note(noted, policy_version=policy_version)

    def commands(self, sentences: Sequence[str], *, step: int) -> None:
        """Operators' commands were carried out, or refused."""
        for sentence in sentences:
            self._journal.event("command", step=step, text=sentence)

    def trained(self, rows: Sequence[Rollout], *, step: int) -> None:
        """The rows made the step, and are marked as trained."""
        self._journal.trained(step, [(row.rollout_id, row.window_index - 1) for row in rows])

    async def step(
        self, result: StepResult, progress: TrainingProgress, *, waited_seconds: float, trained_seconds: float
    ) -> None:
        """A step is done, and led to `progress`."""
        await self._generation.observe()
        assert self._manager.ledger.conservation().holds, self._manager.ledger.conservation()
        clocks = reporting.Clocks(
            since_start=progress.elapsed_seconds,
            since_first_window=self._generation.seconds_since_first_window(),
            waited=waited_seconds,
            trained=trained_seconds,
        )
        totals = self._generation.totals
        line = reporting.step_line(self._manager, result.metrics, step=progress.step, clocks=clocks, generation=totals)
        self._metrics_log.append({**line, "tokens/trained": progress.tokens_trained})
        logger.info("step %d: %s", progress.step, _spoken(line))

    async def end(self, progress: TrainingProgress) -> None:
        """The last step is done, and nothing is in flight any more."""
        await self._generation.observe_silence()
        self._metrics_log.append(reporting.end_line(self._generation.totals, progress))

    def evaluation(self, evaluation: Evaluation, *, seconds_since_start: float) -> None:
        """A round is over. Deferred weights are served under another version: all tokens are from those of the step."""
        if self._section.after_training:
            step = evaluation.step
            evaluation = replace(evaluation, oldest_policy_version=step, newest_policy_version=step)
        self._metrics_log.append(reporting.evaluation_line(evaluation, seconds_since_start=seconds_since_start))
        accuracy = "nothing was scored" if evaluation.accuracy is None else f"accuracy {evaluation.accuracy:.3f}"
        text = f"step {evaluation.step} is evaluated: {accuracy}"
        self._journal.event("evaluation", step=evaluation.step, text=text)
        logger.info("%s", text)


def _spoken(line: Mapping[str, Any]) -> str:
    """What tells at a glance how training goes; nothing is said of what a step has not."""
    return ", ".join(f"{name} {line[key]:.3g}" for key, name in SPOKEN.items() if line.get(key) is not None)
