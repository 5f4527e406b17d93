"""Writes what a run leaves to read: `metrics.jsonl`, `journal.jsonl`, traces, some completions, and a log of them.

Only the checkpoint writer adds events of its own, to the journal.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from learner.parallel.process_counts import ProcessCounts
from learner.reporting.completions_log import CompletionsLog
from learner.reporting.conditions import Conditions
from learner.reporting.generation_watch import GenerationWatch
from learner.reporting.journal import JournalWriter
from learner.reporting.metrics_log import MetricsLog, StepSeconds, end_line, evaluation_line, step_line
from learner.reporting.trace_writer import TraceWriter
from learner.rollouts.evaluation import Evaluation
from learner.rollouts.ledger import Ledger
from learner.rollouts.rollout import Rollout
from learner.step.progress import TrainingProgress
from learner.step.trainer import StepResult
from tppo.rollout import InboxRecord

logger = logging.getLogger(__name__)

SUMMARY = {"reward/mean": "reward", "response_length/mean": "response length", "policy_lag/mean": "policy lag"}


class RunLog:
    """What happened in one incarnation of the learner."""

    def __init__(
        self,
        ledger: Ledger,
        *,
        metrics_log: MetricsLog,
        journal: JournalWriter,
        traces: TraceWriter,
        completions: CompletionsLog,
        generation: GenerationWatch,
        is_evaluation_deferred: bool,
        num_skipped_prompts: int = 0,
    ) -> None:
        self._ledger = ledger
        self._metrics_log = metrics_log
        self.journal = journal
        self.traces = traces
        self._completions = completions
        self._generation = generation
        self._is_evaluation_deferred = is_evaluation_deferred
        self._num_skipped_prompts = num_skipped_prompts

    @property
    def last_error(self) -> str:
        """Why one of the files could not be written the last time; empty when all could."""
        files = (self.traces, self._metrics_log, self.journal, self._completions)
        return next((file.last_error for file in files if file.last_error), "")

    def observe(self, record: InboxRecord) -> None:
        """A record of the inbox has arrived."""
        self._generation.note(record)

    def started(self, incarnation: int, conditions: Conditions, *, step: int) -> None:
        """An incarnation of the learner has started after `step`."""
        counts = ProcessCounts(conditions.num_processes, conditions.num_value_processes)
        text = f"learner started after training step {step}, incarnation {incarnation}"
        of_ranks = f", {counts}" if counts.total > 1 else ""
        computing = {**counts.as_json(), "device": conditions.device, "conditions": conditions.as_json()}
        self.journal.event("start", step=step, text=f"{text}{of_ranks}", incarnation=incarnation, **computing)

    def ended(self, *, step: int, total_training_steps: int) -> None:
        """The learner ends in order: after the last step, or after SIGTERM or an operator's command."""
        self._metrics_log.flush()
        is_complete = step == total_training_steps
        what = "all steps are done" if is_complete else "stopped cleanly"
        text = f"{what}, at step {step} of {total_training_steps}"
        self.journal.event("end", step=step, text=text, is_complete=is_complete)

    def occurrences(self, *, policy_version: int) -> None:
        """What has happened in the ledger since the last call."""
        occurrences, self._ledger.occurrences = self._ledger.occurrences, []
        if occurrences:
            self.journal.note(occurrences, policy_version=policy_version)

    def commands(self, sentences: Sequence[str], *, step: int) -> None:
        """Operators' commands were applied, or refused."""
        for sentence in sentences:
            self.journal.event("command", step=step, text=sentence)

    def trained(self, rows: Sequence[Rollout], *, step: int) -> None:
        """The rows made the step, and are marked as trained."""
        self.journal.trained(step, [(row.rollout_id, row.window_index - 1) for row in rows])
        self._completions.note(rows, step=step)

    async def step(
        self, result: StepResult, progress: TrainingProgress, *, waited_seconds: float, trained_seconds: float
    ) -> None:
        """A training step is done, and led to `progress`."""
        await self._generation.observe()
        assert self._ledger.conservation().holds, self._ledger.conservation()
        seconds = StepSeconds(
            since_start=progress.elapsed_seconds,
            since_first_window=self._generation.seconds_since_first_window(),
            waited=waited_seconds,
            trained=trained_seconds,
        )
        line = step_line(self._ledger, result.metrics, progress, seconds=seconds, generation=self._generation.totals)
        self._metrics_log.append({**line, "data/skipped_prompts": self._num_skipped_prompts})
        logger.info("step %d: %s", progress.step, _summary(line))
        if result.trace is not None:
            await self.traces.add(result.trace)

    async def training_done(self, progress: TrainingProgress) -> None:
        """The last step is done, and nothing is in flight any more."""
        await self._generation.observe_idle()
        self._metrics_log.append(end_line(self._generation.totals, progress))

    def evaluation(self, evaluation: Evaluation, *, seconds_since_start: float) -> None:
        """A round has ended. Deferred weights are served under another version than that of the step they are of."""
        if self._is_evaluation_deferred:
            step = evaluation.step
            evaluation = replace(evaluation, oldest_policy_version=step, newest_policy_version=step)
        self._metrics_log.append(evaluation_line(evaluation, seconds_since_start=seconds_since_start))
        accuracy = "nothing was scored" if evaluation.accuracy is None else f"accuracy {evaluation.accuracy:.3f}"
        exact = "" if evaluation.accuracy_exact is None else f", exact {evaluation.accuracy_exact:.4f}"
        text = f"step {evaluation.step} is evaluated: {accuracy}{exact}"
        self.journal.event("evaluation", step=evaluation.step, text=text)
        logger.info("%s", text)


def _summary(line: Mapping[str, Any]) -> str:
    """How training goes, at a glance; a number that the step lacks is left out."""
    return ", ".join(f"{name} {line[key]:.3g}" for key, name in SUMMARY.items() if line.get(key) is not None)
