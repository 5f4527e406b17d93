"""/ledger: issued = trained + in flight + parked + dropped, now and over time."""

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter

from services.dashboard.api.parameters import RunName
from services.dashboard.api.problems import problems
from services.dashboard.api_model import ApiModel
from services.dashboard.history.records import STATES
from services.dashboard.live.dead_letters import DeadLettersStatus, dead_letters_of
from services.dashboard.live.status import ledger_now
from services.dashboard.live.view import View, Views

MAX_POINTS = 500
MAX_CAUSES = 50
PARTS = ("issued", "trained", "in_flight", "parked", "dropped")


class Duplicates(ApiModel):
    """Records that arrived a second time and were left out."""

    window: int | None
    score: int | None


class ParkedCause(ApiModel):
    """Training rollouts that are parked for causes of one kind."""

    cause: str
    """What retry-parked and drop-parked take; causes that differ in a value only are of one kind."""
    num_rollouts: int


class LedgerReport(ApiModel):
    """Every window that was ever issued, accounted for; null where it is not known."""

    run: str
    issued: int | None
    trained: int | None
    in_flight: int | None
    parked: int | None
    dropped: int | None
    dropped_by_reason: dict[str, int]
    holds: bool | None
    """issued = trained + in_flight + parked + dropped."""
    resent_requests: int | None
    """Requests that had vanished from Redis and were sent once more."""
    rejected_records: int | None
    """Records of the inbox that no learner can use; each counts as never arrived."""
    dead_letters: DeadLettersStatus
    """These records, and requests that no worker could serve."""
    duplicates: Duplicates
    parked_by_cause: list[ParkedCause]
    """The most frequent causes, at most 50."""
    by_state: dict[str, int]
    """Rollouts in the journal by state; of those that have retired longest ago, none."""
    num_forgotten: int
    """Rollouts of the journal that are not kept in memory any more."""
    history: dict[str, list[float | None]]
    """step, and each part of the equation after it."""


def router(views: Views) -> APIRouter:
    """The address."""
    routes = APIRouter(tags=["ledger"], responses=problems(not_found="no such run"))

    @routes.get("/ledger")
    async def ledger(run: RunName = None) -> LedgerReport:
        """The equation, and where the rollouts are."""
        return _ledger(await views.of(run))

    return routes


def _ledger(view: View) -> LedgerReport:
    history = view.history
    journal, steps = history.journal, history.steps
    counts_now, learner = ledger_now(view), view.learner.status if view.learner else {}
    counts = {name: _count(counts_now, name) for name in PARTS}
    rows = steps.rows(max_points=MAX_POINTS)
    return LedgerReport(
        run=history.name,
        **counts,
        dropped_by_reason=_counts(counts_now.get("dropped_by_reason")) or dict(journal.dropped_by_reason),
        holds=_holds(counts),
        resent_requests=_count(steps.latest, "ledger/resent_requests"),
        rejected_records=_count(counts_now, "rejected_records"),
        dead_letters=dead_letters_of(view.observation),
        duplicates=_duplicates(learner.get("duplicates"), steps.latest),
        parked_by_cause=[
            ParkedCause(cause=cause, num_rollouts=count)
            for cause, count in journal.parked_by_cause().most_common(MAX_CAUSES)
        ],
        by_state={state: journal.by_state[state] for state in STATES},
        num_forgotten=journal.num_forgotten,
        history={
            "step": steps.values("step", rows),
            **{name: steps.values(f"ledger/{name}", rows) for name in PARTS},
        },
    )


def _holds(counts: Mapping[str, int | None]) -> bool | None:
    issued, *parts = (counts[name] for name in PARTS)
    known = [part for part in parts if part is not None]
    return issued == sum(known) if issued is not None and len(known) == len(parts) else None


def _duplicates(reported: Any, latest: Mapping[str, Any]) -> Duplicates:
    if isinstance(reported, dict):
        counts = {"window": 0, "score": 0} | reported
        return Duplicates(window=_count(counts, "window"), score=_count(counts, "score"))
    return Duplicates(window=_count(latest, "windows/duplicates"), score=_count(latest, "scores/duplicates"))


def _count(table: Mapping[str, Any], name: str) -> int | None:
    value = table.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _counts(reported: Any) -> dict[str, int]:
    items = reported.items() if isinstance(reported, dict) else ()
    return {str(name): count for name, count in items if isinstance(count, int)}
