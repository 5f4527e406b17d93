"""/windows: what each slot has sampled and when, the picture of successive batching."""

import json
import math
import time
from collections.abc import Iterator
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response

from services.dashboard.api.parameters import Moment, RunName
from services.dashboard.api.problems import problems
from services.dashboard.api_model import ApiModel
from services.dashboard.history.journal import JournalIndex
from services.dashboard.history.records import WindowRecord
from services.dashboard.history.run import RunHistory
from services.dashboard.live.messages import Bar, bar_of
from services.dashboard.live.view import View, Views

MAX_BARS = 2_000
"""In one answer: it is made in some 20 ms."""
MAX_MARKS = 5_000
SLACK_SECONDS = 10.0
"""By which a window that ended earlier may be reported later: generators send in batches."""


class StepMark(ApiModel):
    """A training step in the picture."""

    step: int
    time: float
    """When it ended, seconds since the epoch."""


class Windows(ApiModel):
    """Bars and steps of a stretch of time."""

    run: str
    now: float
    """Seconds since the epoch; of a run that is over, the time of its last line."""
    bars: list[Bar]
    """Those that touch the stretch, by the time of their report, running ones last."""
    steps: list[StepMark]
    slots: dict[str, int]
    """Generator -> how many responses it extends at once."""


def router(views: Views) -> APIRouter:
    """The address."""
    routes = APIRouter(tags=["windows"], responses=problems(not_found="no such run"))

    @routes.get("/windows", response_model=Windows)
    async def windows(
        run: RunName = None,
        since: Moment = None,
        until: Moment = None,
        limit: Annotated[int, Query(ge=1, le=MAX_BARS, description="Most bars; the newest are kept.")] = 1000,
    ) -> Response:
        """The windows between two moments, and the training steps that ended there."""
        view = await views.of(run)
        history = view.history
        first, last = since or 0.0, 1e12 if until is None else until
        ended = list(_ended(history.journal, first, last, limit))[::-1]
        running = list(_running(history.journal, last, limit - len(ended))) if view.is_live or view.is_written() else []
        occupied = _occupied_slots(view)
        bars = [bar_of(window, history.journal) for window in ended]
        bars += [
            bar_of(window, history.journal) | occupied.get((window.rollout, window.window), {}) for window in running
        ]
        return written(
            {
                "run": history.name,
                "now": _now(view),
                "bars": bars,
                "steps": _steps(history, first, last),
                "slots": slots_of(view),
            }
        )

    return routes


def written(answer: dict[str, Any]) -> Response:
    """As JSON, without going through the models: of thousands of bars they would take three times as long."""
    return Response(json.dumps(answer, ensure_ascii=False, allow_nan=False), media_type="application/json")


def _occupied_slots(view: View) -> dict[tuple[str, int], dict[str, Any]]:
    """Fields of `Bar` for running windows, from the generators' heartbeats, by rollout and window."""
    return {
        (str(reported.get("rollout_id")), _integer(reported.get("window_index"))): {
            "generator": generator.name,
            "slot": _integer(reported.get("slot")),
            "started": _number(reported.get("started_at")),
            "tokens": _integer(reported.get("num_tokens")),
        }
        for generator in view.presences("generation")
        if view.is_alive(generator)
        for reported in _running_windows(generator.status.get("running"))
    }


def _running_windows(reported: Any) -> list[dict[str, Any]]:
    return [window for window in reported if isinstance(window, dict)] if isinstance(reported, list) else []


def _integer(value: Any) -> int:
    return value if isinstance(value, int) else 0


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def slots_of(view: View) -> dict[str, int]:
    """As the generators report, else as many as the journal has seen in use."""
    reported: dict[str, Any] = {one.name: one.status.get("num_slots") for one in view.presences("generation")}
    known = {name: num_slots for name, num_slots in reported.items() if isinstance(num_slots, int)}
    return {**view.history.journal.slots, **known}


def _ended(journal: JournalIndex, first: float, last: float, limit: int) -> Iterator[WindowRecord]:
    """The newest first; they were reported in the order of their ends, give or take a heartbeat."""
    for window in reversed(journal.bars):
        if limit <= 0 or (window.ended is not None and window.ended < first - SLACK_SECONDS):
            return
        if window.is_obsolete or window.ended is None or window.ended < first or (window.started or 0.0) > last:
            continue
        limit -= 1
        yield window


def _running(journal: JournalIndex, last: float, limit: int) -> Iterator[WindowRecord]:
    """Requested and not yet reported, in the order of the requests."""
    for record in journal.in_state("requested"):
        window = record.newest_window
        if window is not None and not window.generator and (window.requested or 0.0) <= last:
            if limit <= 0:
                return
            limit -= 1
            yield window


def _steps(history: RunHistory, first: float, last: float) -> list[dict[str, Any]]:
    pairs = zip(history.steps.newest("step", MAX_MARKS), history.steps.newest("time", MAX_MARKS), strict=True)
    return [
        {"step": int(step), "time": moment}
        for step, moment in pairs
        if step is not None and moment is not None and first <= moment <= last
    ]


def _now(view: View) -> float:
    """The end of the picture."""
    last = view.history.last_time
    return view.now if view.is_live or last is None or view.is_written() else float(last or time.time())
