"""What happens to windows, as the ledger notes it for the journal; nothing decides by it."""

from dataclasses import dataclass

from tppo.rollout import Score, Window


@dataclass(frozen=True, slots=True)
class Requested:
    """A window was requested."""

    rollout_id: str
    window_index: int
    prompt_index: int
    ordinal: int
    num_tokens_before: int  # of the response
    is_evaluation: bool


@dataclass(frozen=True, slots=True)
class Arrived:
    """A window arrived; duplicates are left out."""

    window: Window
    is_finished: bool  # no further window will come


@dataclass(frozen=True, slots=True)
class Scored:
    """A score arrived, or why there is none."""

    score: Score


@dataclass(frozen=True, slots=True)
class Parked:
    """A rollout goes no further."""

    rollout_id: str
    window_index: int
    cause: str


@dataclass(frozen=True, slots=True)
class Dropped:
    """An operator dropped a parked rollout."""

    rollout_id: str
    window_index: int
    reason: str


Occurrence = Requested | Arrived | Scored | Parked | Dropped
