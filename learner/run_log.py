"""Writes a run's lines of `metrics.jsonl`: its steps, its evaluations, and the end of its training."""

from dataclasses import replace

from learner import reporting
from learner.checkpoint import Progress
from learner.generation_watch import GenerationWatch
from learner.metrics_log import MetricsLog
from learner.rollouts.books import Books
from learner.rollouts.evaluation import Evaluation
from learner.trainer import StepResult
from tppo.config.schema import EvaluationSection


class RunLog:
    """What the service has to say, in the form of lines."""

    def __init__(
        self, section: EvaluationSection, books: Books, metrics_log: MetricsLog, generation: GenerationWatch
    ) -> None:
        self._section = section
        self._books = books
        self._metrics_log = metrics_log
        self._generation = generation

    async def step(
        self, result: StepResult, progress: Progress, *, waited_seconds: float, trained_seconds: float
    ) -> None:
        """A step is done, and led to `progress`."""
        await self._generation.observe()
        assert self._books.ledger.conservation().holds, self._books.ledger.conservation()
        clocks = reporting.Clocks(
            since_start=progress.elapsed_seconds,
            since_first_window=self._generation.seconds_since_first_window(),
            waited=waited_seconds,
            trained=trained_seconds,
        )
        totals = self._generation.totals
        line = reporting.step_line(self._books, result.metrics, step=progress.step, clocks=clocks, generation=totals)
        self._metrics_log.append({**line, "tokens/trained": progress.tokens_trained})

    async def end(self, progress: Progress) -> None:
        """The last step is done, and nothing is in flight any more."""
        await self._generation.observe_silence()
        self._metrics_log.append(reporting.end_line(self._generation.totals, progress))

    def evaluation(self, evaluation: Evaluation, *, seconds_since_start: float) -> None:
        """A round is over. Weights that were put aside are served under another number: all are those of the step."""
        if self._section.after_training:
            step = evaluation.step
            evaluation = replace(evaluation, oldest_policy_version=step, newest_policy_version=step)
        self._metrics_log.append(reporting.evaluation_line(evaluation, seconds_since_start=seconds_since_start))
