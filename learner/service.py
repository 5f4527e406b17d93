"""The learner: reads the inbox, trains, and requests more.

Loops, all in one event loop; a training step runs in a thread beside it:

* `InboxLoop.serve`: windows, scores, commands -> changes of the rollout manager; requests for scores.
* `_train`: consumes ready rows / waits until they make a training step / unblocked by the inbox / produces weights,
  window requests, metrics, checkpoints. Ends the learner after the last step, or when it is to stop.
* `RequestSender.serve`: the ledger's requests -> the queues.  `WeightPublisher.serve`: new weights -> generators.
* `Reconciliation.serve`: requests that have vanished from Redis -> the ledger's requests.
* `MemoryPressure.serve`: a full Redis -> an early checkpoint.  `Watchdog.serve`: no step for long -> the reason.
* `CheckpointWriter.serve`: copied states -> checkpoints.  `TraceWriter.serve`: tables -> files.
* `beat`: once a second, the learner's state -> its heartbeat.

The first of them that ends unexpectedly ends the process.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from learner.evaluation_rounds import EvaluationRounds
from learner.exchange.inbox import InboxLoop, MemoryPressure
from learner.exchange.peers import Peers
from learner.exchange.reconciliation import Reconciliation
from learner.exchange.request_sender import RequestSender
from learner.exchange.score_failures import ScoreFailures
from learner.exchange.weight_publisher import Snapshot, WeightPublisher
from learner.persistence.checkpoint import cloned
from learner.persistence.checkpoint_writer import CheckpointWriter
from learner.persistence.run_identity import RunIdentity
from learner.reporting.heartbeat import learner_status, missing_rows
from learner.reporting.run_log import RunLog
from learner.reporting.watchdog import Watchdog
from learner.rollouts.manager import RolloutManager
from learner.rollouts.rollout import Position, Rollout
from learner.steering import Steering
from learner.step.progress import TrainingProgress
from learner.step.trainer import Trainer
from tppo.cancellation import TaskGroup, cancel_all
from tppo.config.schema import RunSection
from tppo.presence import beat
from tppo.rollout import InboxRecord
from tppo.streams import Streams


@dataclass(frozen=True, slots=True)
class Parts:
    """What `build.py` makes and the service runs."""

    streams: Streams
    peers: Peers
    manager: RolloutManager
    trainer: Trainer
    steering: Steering
    checkpoints: CheckpointWriter
    rounds: EvaluationRounds
    run_log: RunLog
    failures: ScoreFailures


class LearnerService:
    """One incarnation of the learner, from `progress` to the end of the run or a stop."""

    def __init__(
        self,
        run: RunSection,
        identity: RunIdentity,
        parts: Parts,
        progress: TrainingProgress,
        *,
        until_step: int | None = None,
    ) -> None:
        """`until_step`: end there, although the run is longer."""
        self._run, self._identity, self._parts = run, identity, parts
        self._manager, self._trainer, self._rounds = parts.manager, parts.trainer, parts.rounds
        self._log = parts.run_log
        self._until_step = until_step
        self._progress = progress
        self.steering, self.failures = parts.steering, parts.failures
        self._has_news = asyncio.Event()  # the ledger changed, or a stop was requested
        self._is_stopping = self._waits_for_records = False
        self._waiting_for = "start"
        self._started_at = time.monotonic()
        self._seconds_before = progress.elapsed_seconds
        self._tokens_trained = progress.tokens_trained
        self._inbox = InboxLoop(
            parts.streams.inbox, progress.inbox_position, parts.manager, enter=self._enter, on_entries=self._on_entries
        )
        self._requests = RequestSender(parts.streams, self._manager.ledger)
        self._publisher = WeightPublisher(parts.peers.transport, parts.peers.find_generators)
        self._reconciliation = Reconciliation(
            parts.streams, self._manager.ledger, self._requests, lambda: self._inbox.position, self._manager.border
        )
        self._memory = MemoryPressure(parts.streams, lambda: self._inbox.position, self._has_news.set)
        self._watchdog = Watchdog(
            run.watchdog_seconds,
            lambda: Counter(row.state for row in self._manager.ledger.rollouts.values()),
            self._publisher.generators,
            parts.peers.all_processes,
            is_paused=lambda: self.steering.is_paused,
        )

    @property
    def step(self) -> int:
        """Training steps done; also the policy's version."""
        return self._progress.step

    @property
    def waits_beyond(self) -> str | None:
        """The position behind which it needs another record to continue; None while it does not wait."""
        return self._inbox.position if self._waits_for_records and not self._has_news.is_set() else None

    def stop(self) -> None:
        """End after the training step that is under way, with a checkpoint."""
        self._is_stopping = True
        self._has_news.set()

    async def run(self) -> None:
        """Until every step is done and evaluated, or a stop."""
        await self._reconciliation.begin()
        async with TaskGroup() as group:
            beside = [group.create_task(loop, name=name) for name, loop in self._loops().items()]
            await asyncio.wait([group.create_task(self._train(), name="training")])
            await cancel_all(beside)

    def _loops(self) -> dict[str, Coroutine[Any, Any, None]]:
        """Those that run beside the training."""
        return {
            "requests": self._requests.serve(),
            "reconciliation": self._reconciliation.serve(),
            "memory pressure": self._memory.serve(),
            "watchdog": self._watchdog.serve(),
            "inbox": self._inbox.serve(),
            "publisher": self._publisher.serve(),
            "heartbeat": beat(lambda: self._parts.peers.announce(self._status())),
            "checkpoints": self._parts.checkpoints.serve(),
            "traces": self._log.traces.serve(),
        }

    def _enter(self, position: Position, record: InboxRecord) -> None:
        self._log.observe(record)
        self.failures.note(record)
        self._manager.enter(position, record)

    def _on_entries(self, num_entries: int) -> None:
        self._settle()
        if self.failures.are_too_many(num_entries):
            self.stop()
        if num_entries:
            self._has_news.set()

    def _settle(self) -> None:
        """Act on what the rollouts have come to: evaluations that are over, requests that are to go out."""
        for evaluation in self._manager.evaluator.gather():
            self._parts.checkpoints.keep_if_best(evaluation.step, evaluation.accuracy)
            self._log.evaluation(evaluation, seconds_since_start=self._present_progress().elapsed_seconds)
        self._log.occurrences(policy_version=self.step)
        self._requests.flush()

    async def _train(self) -> None:
        self._log.started(self._identity.incarnation, step=self.step)
        await self._publish(self.step, cloned(self._trainer.policy.network))
        if self._manager.scheduler.is_opened:
            self._manager.scheduler.refill(self.step)
        else:
            self._rounds.start_if_due(self.step)
            self._manager.scheduler.open(self.step)
        self._settle()
        await self._add_solutions(self.step)
        last_step = min(total := self._run.total_training_steps, self._until_step or total)
        while self.step < last_step and not self._is_stopping:
            began = time.monotonic()
            batch = await self._next_batch()
            if batch:
                await self._train_on(batch, waited_seconds=time.monotonic() - began)
        if self.step == total and not self._is_stopping:
            await self._finish_evaluations()
        await self._parts.checkpoints.commit_now(self._present_progress(), self._manager)
        self._log.ended(step=self.step, total_training_steps=total)

    async def _next_batch(self) -> list[Rollout]:
        """The rows of the next training step; empty when the learner is to stop."""
        while not self._is_stopping:
            self._has_news.clear()
            if self.steering.is_paused:
                self._waiting_for = "paused by operator"
                await self._news()
                continue
            batch = [] if self._awaits_first_evaluation() else self._manager.scheduler.next_batch(self.step)
            if batch:
                return batch
            if self._manager.scheduler.replace_parked(self.step):
                self._settle()  # a restarted learner may have the windows already, so look again
                continue
            self._waiting_for = missing_rows(self._manager)
            await self._news()
        return []

    async def _news(self) -> None:
        """Wait for some; no step is half done meanwhile, so that a checkpoint may be taken."""
        if self._memory.take_checkpoint_request() or self._manager.commands.take_checkpoint_request():
            self._parts.checkpoints.commit_soon(self._present_progress(), self._manager)
        self._waits_for_records = True
        await self._has_news.wait()
        self._waits_for_records = False

    def _awaits_first_evaluation(self) -> bool:
        """The base model is evaluated before its weights change."""
        return self.step == 0 and self._manager.evaluator.is_under_way

    async def _train_on(self, batch: list[Rollout], *, waited_seconds: float) -> None:
        self._waiting_for = f"training step {self.step + 1}"
        self._manager.ledger.take(batch)
        began = time.monotonic()
        result = await asyncio.to_thread(self._trainer.step, batch, policy_version=self.step)
        trained_seconds = time.monotonic() - began
        self._identity.require_current()  # frozen in mid-step, it may wake after another learner has taken over
        self._tokens_trained += sum(len(row.window_tokens) for row in batch)
        for row, values in zip(batch, result.values, strict=True):
            self._manager.ledger.mark_trained(row, values)
        self._progress = self._present_progress(step=self.step + 1)
        self._log.trained(batch, step=self.step)
        await self._publish(self.step, cloned(self._trainer.policy.network))
        self._log.commands(self.steering.apply_due(batch, self.step), step=self.step)
        self._rounds.start_if_due(self.step)
        self._manager.scheduler.close_step(batch, self.step)
        self._settle()
        await self._log.step(result, self._progress, waited_seconds=waited_seconds, trained_seconds=trained_seconds)
        self._watchdog.note_step()
        await self._add_solutions(self.step)
        if self._manager.commands.take_checkpoint_request():
            self._parts.checkpoints.commit_soon(self._present_progress(), self._manager)
        self._parts.checkpoints.commit_if_due(self._present_progress(), self._manager)
        if self.steering.is_over(self.step):
            self.stop()

    async def _publish(self, policy_version: int, tensors: Mapping[str, Tensor]) -> None:
        incarnation = self._identity.incarnation
        await self._publisher.publish(Snapshot.of(tensors, self._run.name, policy_version, incarnation=incarnation))

    async def _add_solutions(self, step: int, weights: Mapping[str, Tensor] | None = None) -> None:
        if self._manager.evaluator.awaits_solutions(step):
            before, self._waiting_for = self._waiting_for, f"exact accuracy of step {step}"
            await self._rounds.add_solutions(step, weights)
            self._waiting_for = before
            self._settle()

    async def _finish_evaluations(self) -> None:
        self._waiting_for = "evaluation"
        if self._rounds.section.after_training:
            await self._log.training_done(self._progress)
            await self._evaluate_deferred()
        await self._rounds_are_over()

    async def _evaluate_deferred(self) -> None:
        for step in self._rounds.deferred.steps():
            # A generator takes only what is newer than what it has; a resumed learner must find the same number.
            serving_version = self._run.total_training_steps + 1 + step
            await self._publish(serving_version, weights := self._rounds.deferred.weights(step))
            self._manager.evaluator.start(step, min_policy_version=serving_version)
            self._settle()
            await self._add_solutions(step, weights)
            await self._rounds_are_over()
            if self._is_stopping:
                return
            self._rounds.deferred.delete(step)

    async def _rounds_are_over(self) -> None:
        while self._manager.evaluator.is_under_way and not self._is_stopping:
            self._has_news.clear()
            await self._news()

    def _present_progress(self, step: int | None = None) -> TrainingProgress:
        return TrainingProgress(
            step=self.step if step is None else step,
            inbox_position=self._inbox.position,
            elapsed_seconds=self._seconds_before + time.monotonic() - self._started_at,
            tokens_trained=self._tokens_trained,
        )

    def _status(self) -> Mapping[str, Any]:
        """For the heartbeat."""
        return learner_status(
            self._manager,
            self._publisher.generators,
            step=self.step,
            total_training_steps=self._run.total_training_steps,
            policy_version=self.step,
            incarnation=self._identity.incarnation,
            control=self.steering.status(),
            waiting_for=self._watchdog.text or self._waiting_for,
            last_checkpoint_step=self._parts.checkpoints.last_step,
            last_error=self._requests.last_error or self._parts.checkpoints.last_error or self._log.last_error,
        )
