"""Where a run stands between two training steps."""

import time
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TrainingProgress:
    """What a checkpoint says of the run besides ledger and models."""

    step: int
    """Training steps done; also the policy's version."""
    inbox_position: str
    """Everything up to it is in the ledger."""
    elapsed_seconds: float
    """Of all incarnations of the learner so far."""
    tokens_trained: int


class ProgressMeter:
    """Counts on from where an incarnation of the learner starts."""

    def __init__(self, start: TrainingProgress) -> None:
        self.step = start.step
        self._tokens_trained = start.tokens_trained
        self._seconds_before = start.elapsed_seconds
        self._started_at = time.monotonic()

    def note_step(self, num_tokens: int) -> None:
        """A step is done, on that many tokens."""
        self.step += 1
        self._tokens_trained += num_tokens

    def progress(self, inbox_position: str) -> TrainingProgress:
        """As of now."""
        seconds = self._seconds_before + time.monotonic() - self._started_at
        return TrainingProgress(self.step, inbox_position, seconds, self._tokens_trained)
