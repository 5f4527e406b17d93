"""Where a run stands between two training steps."""

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
