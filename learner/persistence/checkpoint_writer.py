"""Commits checkpoints beside the training: between two steps the disk is written from the tensors themselves.

Loop `serve`: consumes captured states / waits for one / unblocked by `commit_soon` / produces a committed checkpoint,
after which it trims the inbox up to that checkpoint's position, as a resumed learner does once more. It waits for the
traces of the steps before it: a step in a checkpoint is never repeated. The next step waits in `at_rest` until the
tensors that it changes are read, so a checkpoint takes no memory of its own; while windows are generated, the learner
has nothing else to do. A full disk stops neither training nor harms older checkpoints: the error is logged and in the
status, and the next one is tried.
"""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from learner.persistence.checkpoint import Capture, Checkpoints, capture
from learner.persistence.definition import Definition
from learner.reporting.journal import JournalWriter
from learner.reporting.trace_writer import TraceWriter
from learner.rollouts.ledger_state import captured
from learner.rollouts.manager import RolloutManager
from learner.step.progress import TrainingProgress
from learner.step.trainer import Trainer
from tppo.run_folder.metric_lines import MeasuredAccuracy
from tppo.streams import Inbox, StreamsError

logger = logging.getLogger(__name__)


class CheckpointWriter:
    """When to take a checkpoint, and the writing."""

    def __init__(
        self,
        checkpoints: Checkpoints,
        trainer: Trainer,
        tokenizer: PreTrainedTokenizerBase,
        *,
        save_freq: int,
        inbox: Inbox,
        traces: TraceWriter,
        journal: JournalWriter,
        definition: Callable[[], Definition],
    ) -> None:
        """`save_freq`: steps from one checkpoint to the next at most, 0 for none but those that are requested."""
        self._checkpoints = checkpoints
        self._trainer = trainer
        self._tokenizer = tokenizer
        self._save_freq = save_freq
        self._inbox = inbox
        self._traces = traces
        self._journal = journal
        self._definition = definition
        self._pending: Capture | None = None
        self._has_pending = asyncio.Event()
        self._is_reading = False  # the tensors of a state
        self._has_read = asyncio.Event()
        self._has_read.set()
        self._writing = asyncio.Lock()
        self._accuracies: dict[int, MeasuredAccuracy] = {}  # by step, of those that are not committed yet
        self.last_step: int | None = None
        self.last_error = ""

    async def at_rest(self) -> None:
        """Wait until the tensors of the models and of their optimizers may change."""
        await self._has_read.wait()

    async def commit_if_due(self, progress: TrainingProgress, manager: RolloutManager) -> None:
        """Hand the state to the loop every `save_freq` steps, and where the policy is evaluated: it may be the best."""
        is_evaluated = manager.evaluator.has_begun(progress.step)
        if self._save_freq and (is_evaluated or progress.step % self._save_freq == 0):
            self.commit_soon(progress, manager)

    def commit_soon(self, progress: TrainingProgress, manager: RolloutManager) -> None:
        """Hand the state to the loop: an operator has requested it, or a full Redis."""
        self._pending = self._captured(progress, manager)
        self._has_read.clear()
        self._has_pending.set()

    async def commit_now(self, progress: TrainingProgress, manager: RolloutManager) -> None:
        """Commit the present state before the learner ends, as after SIGTERM. Raises OSError when the disk is full."""
        state = self._captured(progress, manager)
        self._pending = None
        await self._write(state)

    def keep_if_best(self, step: int, accuracy: MeasuredAccuracy | None) -> None:
        """An evaluation of that step's policy has ended; the checkpoint of the best is kept, once it is committed."""
        if accuracy is not None:
            self._accuracies[step] = accuracy
            self._keep_best()

    def _keep_best(self) -> None:
        """Of those that are committed and evaluated; what a later commit has passed over has no checkpoint."""
        complete = self._checkpoints.folder.complete_steps()
        for step in sorted(self._accuracies):
            try:
                if step in complete:
                    self._checkpoints.keep_if_best(step, self._accuracies[step])
            except OSError as error:
                self.last_error = f"best checkpoint: {error}"
                logger.warning("cannot note the best checkpoint: %s; retried with the next", error)
                return
            if step in complete or step < (self.last_step or 0):
                del self._accuracies[step]

    async def serve(self) -> None:
        """Write what is handed over, until cancelled."""
        while True:
            await self._has_pending.wait()
            self._has_pending.clear()
            await self._write_pending()

    async def _write_pending(self) -> None:
        """What it holds, rollouts that have ended since among it, is free when this returns."""
        state, self._pending = self._pending, None
        if state is None:
            return
        try:
            await self._write(state)
        except OSError as error:
            self.last_error = f"checkpoint of step {state.progress.step}: {error}"
            logger.exception("%s; training continues", self.last_error)
            self._journal.event("error", step=state.progress.step, text=f"{self.last_error}; training continues")

    def _captured(self, progress: TrainingProgress, manager: RolloutManager) -> Capture:
        return capture(self._trainer, progress, captured(manager), self._definition())

    async def _write(self, state: Capture) -> None:
        self._is_reading = True
        try:
            await self._traces.written()
            async with self._writing:
                path = await asyncio.to_thread(self._commit, state, asyncio.get_running_loop())
        finally:
            self._note_read()
        self.last_step, self.last_error = state.progress.step, ""
        self._keep_best()
        logger.info("checkpoint committed: %s", path)
        self._journal.event("checkpoint", step=self.last_step, text=f"checkpoint of step {self.last_step} committed")
        await trim_behind_checkpoint(self._inbox, state.progress.inbox_position)

    def _commit(self, state: Capture, loop: asyncio.AbstractEventLoop) -> Path:
        return self._checkpoints.commit(
            state,
            self._trainer,
            self._tokenizer,
            keep_also=[int(step) for step in state.ledger.fields["gathered"]],
            when_read=lambda: loop.call_soon_threadsafe(self._note_read),
        )

    def _note_read(self) -> None:
        self._is_reading = False
        if self._pending is None:
            self._has_read.set()


async def trim_behind_checkpoint(inbox: Inbox, position: str) -> None:
    """Delete the records up to the position of a committed checkpoint; one that fails is tried after the next one."""
    try:
        await inbox.trim(position)
        logger.info("the inbox is trimmed up to %s", position)
    except (StreamsError, OSError) as error:
        logger.warning("cannot trim the inbox: %s; retried after the next checkpoint", error)
