"""/critic: what the value model predicted against what the responses earned."""

import asyncio
import math
from http import HTTPStatus

from fastapi import APIRouter
from pydantic import Field

from services.dashboard.api.parameters import RunName, Step
from services.dashboard.api.problems import ProblemError, problems
from services.dashboard.api_model import ApiModel
from services.dashboard.live.view import Views
from services.dashboard.tokens.traces import value_points
from tppo.run_folder.paths import trace_files, trace_path

MAX_POINTS = 2_000


class CriticPoints(ApiModel):
    """One entry per token that trained the value model in the step, 2000 at most, drawn at random."""

    value: list[float | None]
    """Predicted when the token's window was trained."""
    returns: list[float | None] = Field(serialization_alias="return")
    """What the response earned, discounted to the token."""
    is_finished: list[bool]
    """The token's window is the response's last; false: its window was cut, and trained before the end was known."""
    position: list[int]
    """Place in the response."""


class Critic(ApiModel):
    """A sample of one step's trace, the same at every look."""

    run: str
    step: int
    points: CriticPoints


def router(views: Views) -> APIRouter:
    """The address."""
    routes = APIRouter(tags=["critic"], responses=problems(not_found="no such run, or no trace of the step"))

    @routes.get("/critic")
    async def critic(run: RunName = None, step: Step = None) -> Critic:
        """Values against returns in a step; without a step, in the newest that left a trace."""
        history = (await views.of(run)).history
        traces = history.paths.traces
        wanted = max(trace_files(traces), default=None) if step is None else step
        rows = None
        if wanted is not None:
            path = trace_path(traces, wanted)
            rows = await asyncio.to_thread(value_points, path, max_points=MAX_POINTS, seed=wanted)
        if wanted is None or rows is None:
            which = "of any step" if step is None else f"of step {step}"
            raise ProblemError(HTTPStatus.NOT_FOUND, f"no trace {which}; traces are written with trace.enabled = true")
        points = CriticPoints(
            value=[_finite(value) for value in rows["value"]],
            returns=[_finite(value) for value in rows["return"]],
            is_finished=rows["in_window"],
            position=rows["position"],
        )
        return Critic(run=history.name, step=wanted, points=points)

    return routes


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
