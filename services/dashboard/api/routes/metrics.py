"""/metrics: the numbers of metrics.jsonl, now and over time, and how the responses of steps are distributed."""

import asyncio
import csv
import io
import re
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse

from services.dashboard.api.distributions import Distributions, distributions_of
from services.dashboard.api.parameters import RunName
from services.dashboard.api.problems import problems
from services.dashboard.api_model import LARGEST, ApiModel
from services.dashboard.history.columns import Columns
from services.dashboard.history.run import RunHistory
from services.dashboard.live.view import Views

ALWAYS = ("step", "time", "seconds_since_start")
MAX_NAMES = 100
MAX_NUMBERS = 100_000
"""In one answer: it is made in some 50 ms."""
NUMBERS_AT_ONCE = 20_000
"""Of a file that is sent; then the event loop serves others."""

Kind = Literal["step", "evaluation"]


class MetricHistory(ApiModel):
    """Columns of equal length, a row per line of the kind; thinned evenly, the newest line always kept."""

    run: str
    kind: Kind
    num_lines: int
    """Before thinning."""
    columns: dict[str, list[float | None]]
    """step, time (seconds since the epoch), seconds_since_start, and the names in the request; null where a line
    lacks the number. The meaning of each: docs/metrics.md."""


class MetricNames(ApiModel):
    """The names of all metrics."""

    run: str
    step: list[str]
    evaluation: list[str]


class LatestMetrics(ApiModel):
    """The newest line of each kind."""

    run: str
    step: dict[str, Any]
    evaluation: dict[str, Any]
    age_seconds: float | None
    """Of the newest step."""


def router(views: Views) -> APIRouter:
    """The addresses."""
    routes = APIRouter(prefix="/metrics", tags=["metrics"], responses=problems(not_found="no such run"))

    @routes.get("")
    async def metrics(
        run: RunName = None,
        kind: Kind = "step",
        names: Annotated[
            str, Query(max_length=8000, description="Separated by commas, 100 at most; none: all there are.")
        ] = "",
        max_points: Annotated[
            int, Query(ge=1, le=5000, description="Most rows; fewer where there are many names.")
        ] = 500,
        from_step: Annotated[int, Query(ge=0, le=LARGEST)] = 0,
    ) -> MetricHistory:
        """The history."""
        history = (await views.of(run)).history
        columns = _columns(history, kind)
        wanted = [name for name in names.split(",") if name] or columns.names
        every = tuple(dict.fromkeys([*ALWAYS, *wanted[:MAX_NAMES]]))
        rows = columns.rows(from_step=from_step, max_points=min(max_points, MAX_NUMBERS // len(every)))
        numbers = {name: columns.values(name, rows) for name in every}
        return MetricHistory(run=history.name, kind=kind, num_lines=columns.num_lines, columns=numbers)

    @routes.get("/names")
    async def metric_names(run: RunName = None) -> MetricNames:
        """Every metric that was a number at least once."""
        history = (await views.of(run)).history
        return MetricNames(run=history.name, step=history.steps.names, evaluation=history.evaluations.names)

    @routes.get("/latest")
    async def latest_metrics(run: RunName = None) -> LatestMetrics:
        """The newest step and the newest evaluation."""
        history = (await views.of(run)).history
        last = history.steps.latest.get("time")
        age = time.time() - last if isinstance(last, int | float) else None
        return LatestMetrics(
            run=history.name, step=history.steps.latest, evaluation=history.evaluations.latest, age_seconds=age
        )

    _add_exports(routes, views)
    return routes


def _add_exports(routes: APIRouter, views: Views) -> None:
    """What is made of all numbers, or of all rollouts."""

    @routes.get("/csv", response_class=StreamingResponse, responses={200: {"content": {"text/csv": {}}}})
    async def metrics_as_csv(run: RunName = None, kind: Kind = "step") -> StreamingResponse:
        """Every line and every metric, as a table with the names in its first row."""
        history = (await views.of(run)).history
        name = re.sub(r"[^A-Za-z0-9_.-]+", "-", history.name)
        file = {"Content-Disposition": f'attachment; filename="{name}-{kind}s.csv"'}
        return StreamingResponse(_csv_of(_columns(history, kind)), media_type="text/csv", headers=file)

    @routes.get("/distributions")
    async def distributions(
        run: RunName = None,
        from_step: Annotated[int, Query(ge=0, le=LARGEST)] = 0,
        to_step: Annotated[int, Query(ge=0, le=LARGEST)] = LARGEST,
        evaluation: Annotated[bool, Query(description="Of evaluations, not of training.")] = False,
        bins: Annotated[int, Query(ge=1, le=200, description="Most bins of each.")] = 30,
    ) -> Distributions:
        """Lengths and scores of the responses that ended in these steps, as far as the journal is kept in memory."""
        history = (await views.of(run)).history
        records = history.journal.rollouts.values()
        steps = (from_step, to_step)
        return distributions_of(history.name, records, steps=steps, is_evaluation=evaluation, num_bins=bins)


async def _csv_of(columns: Columns) -> AsyncIterator[str]:
    names = [*ALWAYS, *(name for name in columns.names if name not in ALWAYS)]
    kept = columns.copied(names)  # lines that arrive while it is sent would shift the rows
    num_rows = max(1, NUMBERS_AT_ONCE // len(names))
    yield _csv_rows([names])
    for first in range(0, len(kept[0]), num_rows):
        rows = zip(*(column[first : first + num_rows] for column in kept), strict=True)
        yield _csv_rows([[_cell(value) for value in row] for row in rows])
        await asyncio.sleep(0)


def _csv_rows(rows: list[list[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _cell(value: float) -> str:
    """Empty where it is missing."""
    if value != value:  # only a missing one differs from itself
        return ""
    return str(int(value)) if value.is_integer() and abs(value) < 2**53 else repr(value)


def _columns(history: RunHistory, kind: Kind) -> Columns:
    return history.steps if kind == "step" else history.evaluations
