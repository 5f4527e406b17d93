"""The learner: reads the inbox, trains, and requests more.

Loops, all in one event loop, the first of which to end unexpectedly ends the process; steps run in a thread beside:

* `InboxLoop.serve`: windows, scores, commands -> changes of the rollout manager; requests for scores.
* `_train`: consumes ready rows / waits until they make a training step / unblocked by the inbox / produces weights,
  window requests, metrics, checkpoints. Ends the learner after the last step, or when it is to stop.
* `RequestSender.serve`: the ledger's requests -> the queues.  `WeightPublisher.serve`: new weights -> generators.
* `Reconciliation.serve`: requests that have vanished from Redis -> the ledger's requests.
* `RejectedRecords.serve`: records that no learner can use -> dead letters.  `beat`: the learner's state -> heartbeats.
* `MemoryPressure.serve`: a full Redis -> an early checkpoint.  `Watchdog.serve`: no step for long -> the reason.
* `CheckpointWriter.serve`: states between two steps -> checkpoints.  `TraceWriter.serve`: tables -> files.
"""

import asyncio
import math
import time
from collections.abc import Coroutine, Mapping
from functools import partial
from typing import Any

from torch import Tensor

from learner.exchange.inbox import InboxLoop, MemoryPressure, RejectedRecords
from learner.exchange.reconciliation import Reconciliation
from learner.exchange.request_sender import RequestSender
from learner.exchange.sleeping_engines import SleepingEngines
from learner.exchange.weight_publisher import WeightPublisher
from learner.parts import Parts
from learner.persistence.run_identity import RunIdentity
from learner.reporting.heartbeat import missing_rows
from learner.reporting.watchdog import Watchdog
from learner.rollouts.rollout import Position, Rollout
from learner.step.progress import ProgressMeter, TrainingProgress
from tppo.process.cancellation import TaskGroup, cancel_all
from tppo.process.presence import beat
from tppo.rollout import InboxRecord


class LearnerService:
    """One incarnation of the learner, from `progress` to the end of the run or a stop."""

    def __init__(
        self, identity: RunIdentity, parts: Parts, progress: TrainingProgress, *, until_step: int | None = None
    ) -> None:
        """`until_step`: end there, although the run is longer."""
        self._identity, self._parts, self._reconfiguration = identity, parts, parts.reconfiguration
        self._manager, self._trainer, self._rounds = parts.manager, parts.trainer, parts.rounds
        self._log, self._checkpoints, self.steering = parts.run_log, parts.checkpoints, parts.steering
        self.failures, self._until, self._meter = parts.failures, until_step or math.inf, ProgressMeter(progress)
        self._has_news = asyncio.Event()  # the ledger changed, or a stop was requested
        self._snapshot = partial(parts.snapshot, incarnation=identity.incarnation)
        self._is_stopping, self._waits_for_records, self._waiting_for = False, False, "start"
        self._rejected = RejectedRecords(parts.streams, parts.manager)
        self._inbox = InboxLoop(
            parts.streams.inbox,
            progress.inbox_position,
            parts.manager.border,
            enter=self._enter,
            reject=self._rejected.reject,
            on_entries=self._on_entries,
            held_at=lambda: parts.reconfiguration.held_at,
            is_supplied=parts.manager.scheduler.is_supplied,
        )
        self._requests = RequestSender(parts.streams, self._manager.ledger)
        self._publisher = WeightPublisher(
            parts.peers.transport,
            parts.peers.find_generators,
            on_disagreement=lambda text: self._log.journal.event("disagreement", step=self.step, text=text),
        )
        self._engines = SleepingEngines(parts.peers, self._publisher)
        self._reconciliation = Reconciliation(
            parts.streams, self._manager.ledger, self._requests, lambda: self._inbox.position, self._manager.border
        )
        self._memory = MemoryPressure(parts.streams, lambda: self._inbox.position, self._has_news.set)
        self._watchdog = Watchdog(
            self._reconfiguration.run.watchdog_seconds,
            self._manager.ledger.count_by_state,
            self._publisher.generators,
            parts.peers.all_processes,
            is_paused=lambda: self.steering.is_paused,
        )

    @property
    def step(self) -> int:
        """Training steps done; also the policy's version."""
        return self._meter.step

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
        async with TaskGroup() as group:
            heartbeat = group.create_task(beat(lambda: self._parts.peers.announce(self._status())), name="heartbeat")
            await asyncio.wait([group.create_task(self._work(), name="work")])
            await cancel_all([heartbeat])

    async def _work(self) -> None:
        await self._reconfiguration.begin(
            self._parts.streams.inbox, self._present_progress(), incarnation=self._identity.incarnation
        )
        await self._reconciliation.begin()
        async with TaskGroup() as group:
            beside = [group.create_task(loop, name=name) for name, loop in self._loops().items()]
            await asyncio.wait([group.create_task(self._train(), name="training")])
            await cancel_all(beside)

    def _loops(self) -> dict[str, Coroutine[Any, Any, None]]:
        return {
            "requests": self._requests.serve(),
            "reconciliation": self._reconciliation.serve(),
            "dead letters": self._rejected.serve(),
            "memory pressure": self._memory.serve(),
            "watchdog": self._watchdog.serve(),
            "inbox": self._inbox.serve(),
            "publisher": self._publisher.serve(),
            "checkpoints": self._checkpoints.serve(),
            "traces": self._log.traces.serve(),
        }

    def _enter(self, position: Position, record: InboxRecord) -> None:
        self._log.observe(record)
        self.failures.note(record)
        self._manager.enter(position, record)

    def _on_entries(self, num_entries: int) -> None:
        self._settle()
        if self.failures.are_too_many(is_at_end=self._inbox.is_at_end):
            self.stop()
        if num_entries:
            self._has_news.set()

    def _settle(self) -> None:
        """Act on what the rollouts have come to: evaluations that are over, requests that are to go out."""
        for evaluation in self._manager.evaluator.gather():
            self._checkpoints.keep_if_best(evaluation.step, evaluation.deciding)
            self._log.evaluation(evaluation, seconds_since_start=self._present_progress().elapsed_seconds)
        self._log.occurrences(policy_version=self.step)
        self._requests.flush()

    async def _train(self) -> None:
        self._log.started(self._identity.incarnation, self._parts.conditions(), step=self.step)
        await self._publisher.publish(snapshot := await asyncio.to_thread(self._snapshot, self.step))
        if self._manager.scheduler.is_opened:
            self._manager.scheduler.refill(self.step)
        else:
            await self._rounds.defer_if_due(self.step, snapshot)
            self._rounds.start_if_due(self.step)
            self._manager.scheduler.open(self.step)
        del snapshot  # a copy of the policy, which the publisher drops with the next one
        self._settle()
        await self._add_solutions(self.step)
        await self._take_steps()
        while self.step >= self._reconfiguration.run.total_training_steps and not self._is_stopping:
            await self._finish_evaluations()
            if not await self._change_at_the_end():
                break
            await self._take_steps()
        await self._checkpoints.commit_now(self._present_progress(), self._manager)
        self._log.ended(step=self.step, total_training_steps=self._reconfiguration.run.total_training_steps)

    async def _take_steps(self) -> None:
        """All of them, as many as there are now and then."""
        while not self._is_stopping and self.step < min(self._until, self._reconfiguration.run.total_training_steps):
            began = time.monotonic()
            if batch := await self._next_batch():
                self._waiting_for = f"checkpoint of step {self.step}"
                await self._checkpoints.at_rest()
                await self._train_on(batch, waited_seconds=time.monotonic() - began)
            del batch  # rows whose responses have ended are free before the next ones come

    async def _change_at_the_end(self) -> bool:
        """Apply what a resumed session has changed after the last step; whether there was something."""
        while self._reconfiguration.is_due(self.step) and not self._is_stopping:
            self._has_news.clear()
            if await self._apply_ready_change():
                return True
            await self._news("changed settings")
        return False

    async def _apply_ready_change(self) -> bool:
        """Apply the change that comes before the next step, once all records before it are entered; whether it was."""
        if not self._reconfiguration.is_ready(self.step, self._inbox.position):
            return False
        self._log.commands([await self._reconfiguration.apply_next()], step=self.step)
        self._manager.scheduler.refill(self.step)
        self._settle()
        self._inbox.release()
        return True

    async def _next_batch(self) -> list[Rollout]:
        """The rows of the next training step; empty when the learner is to stop."""
        while not self._is_stopping:
            self._has_news.clear()
            if self.steering.is_paused:
                await self._news("paused by operator")
                continue
            # The base model is evaluated before its weights change.
            is_held = self._reconfiguration.is_due(self.step) or (self.step == 0 and self._rounds.is_under_way)
            if batch := [] if is_held else self._manager.scheduler.next_batch(self.step):
                return batch
            if self._manager.scheduler.replace_parked(self.step):
                self._settle()  # a restarted learner may have the windows already, so look again
                continue
            if await self._apply_ready_change():
                continue
            await self._news(missing_rows(self._manager))
        return []

    async def _news(self, waiting_for: str) -> None:
        """Wait for some; no step is half done meanwhile, so that a checkpoint may be taken."""
        self._waiting_for = waiting_for
        self._commit_if_requested()
        self._waits_for_records = True
        await self._has_news.wait()
        self._waits_for_records = False

    def _commit_if_requested(self) -> None:
        if self._memory.take_checkpoint_request() or self._manager.commands.take_checkpoint_request():
            self._checkpoints.commit_soon(self._present_progress(), self._manager)

    async def _train_on(self, batch: list[Rollout], *, waited_seconds: float) -> None:
        await self._engines.before_step(is_on=self._reconfiguration.config.engine_sleep != "off")
        self._waiting_for = f"training step {self.step + 1}"
        self._manager.ledger.take(batch)
        began = time.monotonic()
        with self._inbox.gathering():  # the copy, too, wants the interpreter that reading would take
            result = await asyncio.to_thread(self._trainer.step, batch, policy_version=self.step)
            seconds = {"waited_seconds": waited_seconds, "trained_seconds": time.monotonic() - began}
            snapshot = await asyncio.to_thread(self._snapshot, self.step + 1)
        self._identity.require_current()  # frozen in mid-step, it may wake after another learner has taken over
        await self._rounds.defer_if_due(self.step + 1, snapshot)
        self._meter.note_step(sum(row.num_window_tokens for row in batch))
        for row, values in zip(batch, result.values, strict=True):
            self._manager.ledger.mark_trained(row, values)
        self._log.trained(batch, step=self.step)
        await self._publisher.publish(snapshot)
        self._log.commands(self.steering.apply_due(batch, self.step), step=self.step)
        self._rounds.start_if_due(self.step)
        self._manager.scheduler.close_step(batch, self.step)
        self._settle()
        await self._log.step(result, self._present_progress(), **seconds)
        self._watchdog.note_step()
        await self._add_solutions(self.step)
        self._commit_if_requested()
        await self._checkpoints.commit_if_due(self._present_progress(), self._manager)
        if self.steering.is_over(self.step):
            self.stop()

    async def _publish(self, policy_version: int, tensors: Mapping[str, Tensor]) -> None:
        await self._publisher.publish(await asyncio.to_thread(self._snapshot, policy_version, tensors))

    async def _add_solutions(self, step: int, weights: Mapping[str, Tensor] | None = None) -> None:
        if self._manager.evaluator.awaits_solutions(step):
            before, self._waiting_for = self._waiting_for, f"exact accuracy of step {step}"
            await self._rounds.add_solutions(step, weights)
            self._waiting_for = before
            self._settle()

    async def _finish_evaluations(self) -> None:
        self._waiting_for = "evaluation"
        if self._rounds.section.after_training:
            await self._log.training_done(self._present_progress())
            await self._rounds.evaluate_deferred(self._publish, self._finish_deferred)
        await self._finish_rounds()

    async def _finish_deferred(self, step: int, weights: Mapping[str, Tensor]) -> bool:
        self._settle()
        await self._add_solutions(step, weights)
        return await self._finish_rounds()

    async def _finish_rounds(self) -> bool:
        """Whether all are over; not when the learner is to stop, or to go on training, before."""
        while self._rounds.is_under_way and not self._is_over_or_changing():
            self._has_news.clear()
            await self._news("evaluation")
        return not self._is_over_or_changing()

    def _is_over_or_changing(self) -> bool:
        return self._is_stopping or self._reconfiguration.is_ready(self.step, self._inbox.position)

    def _present_progress(self) -> TrainingProgress:
        return self._meter.progress(self._inbox.position)

    def _status(self) -> Mapping[str, Any]:
        return self._parts.status(
            self._publisher.generators,
            step=self.step,
            incarnation=self._identity.incarnation,
            waiting_for=self._watchdog.text or self._engines.waiting_for or self._waiting_for,
            last_error=self._requests.last_error or self._checkpoints.last_error or self._log.last_error,
        )
