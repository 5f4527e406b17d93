"""What REST answers and messages of the stream have in common: bars of windows, events, lines of the metrics."""

from typing import Any

from services.dashboard.api_model import LARGEST, ApiModel
from services.dashboard.history.journal import JournalIndex
from services.dashboard.history.records import WindowRecord


class Bar(ApiModel):
    """One window in one slot."""

    rollout: str
    window: int
    generator: str
    """Empty while it waits for a slot."""
    slot: int | None
    started: float | None
    """Seconds since the epoch; of a window that waits for a slot, when it was requested."""
    ended: float | None
    """Null while it is being sampled, or waits to be."""
    tokens: int
    versions: list[tuple[int, int]]
    """[policy version, number of tokens], in order."""
    finish: str
    """stop, length or failed; empty while it runs."""
    is_finished: bool
    """The response ended here."""
    score: float | None
    """Of a finished response, once it is known."""
    evaluation: bool


class RunEvent(ApiModel):
    """Something that happened in the run."""

    id: int
    """Rises; for `after_id`."""
    time: float | None
    """Seconds since the epoch."""
    event: str
    """start, checkpoint, evaluation, command, end or error."""
    step: int | None
    text: str
    """A sentence."""
    extra: dict[str, Any]
    """The other fields of the journal's line."""


def bar_of(window: WindowRecord, journal: JournalIndex) -> dict[str, Any]:
    """One window as it is drawn: the fields of `Bar`, as a plain table because there are thousands of them."""
    record = journal.rollouts.get(window.rollout)
    return {
        "rollout": window.rollout,
        "window": window.window,
        "generator": window.generator,
        "slot": window.slot,
        "started": window.started if window.generator else window.requested,
        "ended": window.ended,
        "tokens": window.tokens,
        "versions": window.versions,
        "finish": window.finish,
        "is_finished": window.is_finished,
        "score": record.score if record and window.is_finished else None,
        "evaluation": window.evaluation,
    }


def event_of(line: dict[str, Any]) -> RunEvent:
    """An event of the journal."""
    named = ("id", "time", "kind", "event", "step", "text")
    time, step = line.get("time"), line.get("step")
    return RunEvent(
        id=line["id"],
        time=time if isinstance(time, int | float) else None,
        event=str(line.get("event", "")),
        step=step if isinstance(step, int) and abs(step) <= LARGEST else None,
        text=str(line.get("text", "")),
        extra={name: value for name, value in line.items() if name not in named},
    )


def finite(line: dict[str, Any]) -> dict[str, Any]:
    """A line of the metrics with null for the numbers that JSON lacks."""
    return {name: None if isinstance(value, float) and value - value != 0 else value for name, value in line.items()}
