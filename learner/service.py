"""The learner: reads the inbox, trains, and asks for more.

Loops, all in one event loop; a training step runs in a thread beside it:

* `_intake`: consumes the inbox / waits for its next entries / unblocked by generators and reward workers / produces
  changes of the ledger, and reward requests for finished responses.
* `_train`: consumes ready rows / waits until they make a step / unblocked by `_intake` / produces weights, window
  requests, metrics, checkpoints. Ends the learner when all steps are done, or when it is asked to stop.
* `RequestSender.serve`: the ledger's requests -> the queues.  `WeightPublisher.serve`: new weights -> generators.
* `Reconciliation.serve`: requests that have vanished from Redis -> the ledger's requests.
* `MemoryPressure.serve`: a full Redis -> an early checkpoint.  `Watchdog.serve`: no step for long -> the reason.
* `CheckpointWriter.serve`: copied states -> checkpoints.     `TraceWriter.serve`: tables -> files.
* `_beat`: once a second, the learner's state -> its presence.

The first of them that ends unexpectedly ends the process.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Mapping

from redis.exceptions import RedisError
from torch import Tensor

from learner.exchange.memory_pressure import MemoryPressure
from learner.exchange.reconciliation import Reconciliation
from learner.exchange.request_sender import RequestSender
from learner.exchange.weight_publisher import Snapshot
from learner.parts import Parts
from learner.persistence.checkpoint import cloned
from learner.persistence.run_identity import RunIdentity
from learner.reporting import lines as reporting
from learner.reporting.run_log import RunLog
from learner.reporting.watchdog import Watchdog
from learner.rollouts.rollout import Rollout
from learner.steering import Steering
from learner.step.progress import TrainingProgress
from tppo import codec, weights
from tppo.cancellation import TaskGroup, cancel_all
from tppo.config import Config
from tppo.streams import InboxEntry
from tppo.streams.contract import position_of

logger = logging.getLogger(__name__)

READ_COUNT = 256  # inbox entries per read
READ_WAIT_SECONDS = 1.0
RETRY_SECONDS = 0.5
HEARTBEAT_SECONDS = 1.0


class LearnerService:
    """One life of the learner, from `progress` to the end of the run or a stop."""

    def __init__(self, config: Config, identity: RunIdentity, parts: Parts, progress: TrainingProgress) -> None:
        self._config = config
        self._identity = identity
        self._parts = parts
        self._manager = parts.manager
        self._progress = progress
        self._steering = parts.steering
        self._position = progress.inbox_position
        self._outbox = RequestSender(parts.streams, parts.manager.ledger)
        self._reconciliation = Reconciliation(parts.streams, parts.manager.ledger, self._outbox, lambda: self._position)
        self._relief = MemoryPressure(parts.streams, lambda: self._position, lambda: self._has_news.set())
        self._watchdog = Watchdog(
            config.run.watchdog_seconds,
            lambda: Counter(row.state for row in parts.manager.ledger.rollouts.values()),
            parts.publisher.generators,
            parts.everyone,
            is_paused=lambda: parts.steering.is_paused,
        )
        self._log = RunLog(config.evaluation, parts)
        self._has_news = asyncio.Event()  # the ledger changed, or a stop was asked for
        self._is_stopping = self._waits_for_records = False
        self._waiting_for = "start"
        self._life_began = time.monotonic()
        self._seconds_before = progress.elapsed_seconds
        self._tokens_trained = progress.tokens_trained

    @property
    def step(self) -> int:
        """Training steps done; also the policy's version."""
        return self._progress.step

    @property
    def waits_beyond(self) -> str | None:
        """The position behind which it needs another record to go on; None while it does not wait."""
        return self._position if self._waits_for_records and not self._has_news.is_set() else None

    @property
    def steering(self) -> Steering:
        """What operators have asked for."""
        return self._steering

    def stop(self) -> None:
        """End after the step that is under way, with a checkpoint."""
        self._is_stopping = True
        self._has_news.set()

    async def run(self) -> None:
        """Until every step is done and evaluated, or a stop."""
        await self._reconciliation.begin()
        async with TaskGroup() as group:
            helpers = [
                group.create_task(loop, name=name)
                for name, loop in {
                    "outbox": self._outbox.serve(),
                    "reconciliation": self._reconciliation.serve(),
                    "relief": self._relief.serve(),
                    "watchdog": self._watchdog.serve(),
                    "intake": self._intake(),
                    "publisher": self._parts.publisher.serve(),
                    "heartbeat": self._beat(),
                    "checkpoints": self._parts.checkpoints.serve(),
                    "traces": self._parts.traces.serve(),
                }.items()
            ]
            await asyncio.wait([group.create_task(self._train(), name="training")])
            await cancel_all(helpers)

    async def _intake(self) -> None:
        while True:
            try:
                entries = await self._parts.streams.inbox.read(
                    self._position, max_count=READ_COUNT, wait_seconds=READ_WAIT_SECONDS
                )
            except (RedisError, OSError) as error:
                logger.warning("cannot read the inbox: %s; trying again", error)
                await asyncio.sleep(RETRY_SECONDS)
                continue
            self._enter(entries)

    def _enter(self, entries: list[InboxEntry]) -> None:
        for entry in entries:
            record = codec.decode_inbox_record(entry.payload)
            self._parts.generation.note(record)
            self._manager.enter(position_of(entry.position), record)
            self._position = entry.position
        self._settle()
        if entries:
            self._has_news.set()

    def _settle(self) -> None:
        """Act on what the manager have come to: evaluations that are over, requests that are to go out."""
        for evaluation in self._manager.evaluator.gather():
            self._parts.checkpoints.judge(evaluation.step, evaluation.accuracy)
            self._log.evaluation(evaluation, seconds_since_start=self._present_progress().elapsed_seconds)
        self._log.occurrences(policy_version=self.step)
        self._outbox.flush()

    async def _train(self) -> None:
        self._log.begin(self._identity.incarnation, step=self.step)
        await self._publish()
        if not self._manager.scheduler.is_opened:
            self._start_evaluation_if_due()
            self._manager.scheduler.open(self.step)
        self._settle()
        last_step = min(total := self._config.run.total_training_steps, self._parts.until_step or total)
        while self.step < last_step and not self._is_stopping:
            began = time.monotonic()
            batch = await self._next_batch()
            if batch:
                await self._train_on(batch, waited_seconds=time.monotonic() - began)
        if self.step == total and not self._is_stopping:
            await self._finish_evaluations()
        await self._parts.checkpoints.commit_now(self._present_progress(), self._manager)
        self._log.leave(step=self.step, total_training_steps=total)

    async def _next_batch(self) -> list[Rollout]:
        """The rows of the next step; empty when a stop is asked for."""
        while not self._is_stopping:
            self._has_news.clear()
            if self._steering.is_paused:
                self._waiting_for = "an operator, who has paused the run"
                await self._news()
                continue
            batch = [] if self._awaits_first_evaluation() else self._manager.scheduler.next_batch()
            if batch:
                return batch
            if self._manager.scheduler.replace_parked(self.step):
                self._settle()  # a restarted learner may have the answers already, so look again
                continue
            self._waiting_for = reporting.what_is_missing(self._manager)
            await self._news()
        return []

    async def _news(self) -> None:
        """Wait for some; nothing is half done meanwhile, so that a checkpoint may be taken."""
        if self._relief.take_checkpoint_request() or self._manager.commands.take_checkpoint_request():
            self._parts.checkpoints.commit_soon(self._present_progress(), self._manager)
        self._waits_for_records = True
        await self._has_news.wait()
        self._waits_for_records = False

    def _awaits_first_evaluation(self) -> bool:
        """The base model is judged before its weights change."""
        return self.step == 0 and self._manager.evaluator.is_under_way

    async def _train_on(self, batch: list[Rollout], *, waited_seconds: float) -> None:
        self._waiting_for = "the training of a step"
        self._manager.ledger.take(batch)
        began = time.monotonic()
        result = await asyncio.to_thread(self._parts.trainer.step, batch, policy_version=self.step)
        trained_seconds = time.monotonic() - began
        self._identity.require_current()  # frozen in mid-step, it may wake after a successor has begun
        self._tokens_trained += sum(len(row.window_tokens) for row in batch)
        for row, values in zip(batch, result.values, strict=True):
            self._manager.ledger.mark_trained(row, values)
        self._progress = self._present_progress(step=self.step + 1)
        self._log.trained(batch, step=self.step)
        await self._publish()
        self._log.commands(self._steering.carry_out(batch, self.step), step=self.step)
        self._start_evaluation_if_due()
        self._manager.scheduler.close_step(batch, self.step)
        self._settle()
        await self._log.step(result, self._progress, waited_seconds=waited_seconds, trained_seconds=trained_seconds)
        if result.trace is not None:
            await self._parts.traces.add(result.trace)
        self._watchdog.note_step()
        if self._manager.commands.take_checkpoint_request():
            self._parts.checkpoints.commit_soon(self._present_progress(), self._manager)
        self._parts.checkpoints.commit_if_due(self._present_progress(), self._manager)
        if self._steering.is_over(self.step):
            self.stop()

    async def _publish(self) -> None:
        await self._publish_as(self.step, cloned(self._parts.trainer.policy.network))

    async def _publish_as(self, policy_version: int, tensors: Mapping[str, Tensor]) -> None:
        await self._parts.publisher.publish(
            Snapshot(
                run=self._config.run.name,
                policy_version=policy_version,
                incarnation=self._identity.incarnation,
                tensors=tensors,
                digest=weights.digest(tensors),
            )
        )

    def _start_evaluation_if_due(self) -> None:
        frequency = self._config.evaluation.test_freq
        is_last = self.step == self._config.run.total_training_steps
        if not frequency or not (is_last or self.step % frequency == 0):
            return
        if self._config.evaluation.after_training:
            self._parts.deferred_weights.put(self.step, cloned(self._parts.trainer.policy.network))
        else:
            self._manager.evaluator.start(self.step, min_policy_version=self.step)

    async def _finish_evaluations(self) -> None:
        self._waiting_for = "evaluation"
        if self._config.evaluation.after_training:
            await self._log.end(self._progress)
            await self._evaluate_deferred_weights()
        await self._rounds_are_over()

    async def _evaluate_deferred_weights(self) -> None:
        for step in self._parts.deferred_weights.steps():
            # A generator takes only what is newer than what it has; a resumed learner must find the same number.
            serving_version = self._config.run.total_training_steps + 1 + step
            await self._publish_as(serving_version, self._parts.deferred_weights.weights(step))
            self._manager.evaluator.start(step, min_policy_version=serving_version)
            self._settle()
            await self._rounds_are_over()
            if self._is_stopping:
                return
            self._parts.deferred_weights.delete(step)

    async def _rounds_are_over(self) -> None:
        while self._manager.evaluator.is_under_way and not self._is_stopping:
            self._has_news.clear()
            await self._news()

    def _present_progress(self, step: int | None = None) -> TrainingProgress:
        return TrainingProgress(
            step=self.step if step is None else step,
            inbox_position=self._position,
            elapsed_seconds=self._seconds_before + time.monotonic() - self._life_began,
            tokens_trained=self._tokens_trained,
        )

    async def _beat(self) -> None:
        while True:
            status = reporting.presence_status(
                self._manager,
                self._parts.publisher,
                step=self.step,
                total_training_steps=self._config.run.total_training_steps,
                policy_version=self.step,
                incarnation=self._identity.incarnation,
                control=self._steering.status(),
                waiting_for=self._watchdog.text or self._waiting_for,
                last_checkpoint_step=self._parts.checkpoints.last_step,
                last_error=self._outbox.last_error
                or self._parts.checkpoints.last_error
                or self._parts.traces.last_error
                or self._parts.metrics_log.last_error
                or self._parts.journal.last_error,
            )
            try:
                await self._parts.announce(status)
            except (RedisError, OSError) as error:
                logger.warning("cannot announce: %s; trying again", error)
            await asyncio.sleep(HEARTBEAT_SECONDS)
