"""/control: an operator's requests. Each becomes a command in the run's inbox, so that a replay applies it too."""

import asyncio
import json
import time
import uuid
from http import HTTPStatus
from typing import Annotated, Any, Literal, Self

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field, model_validator

from services.dashboard.api.access import Access
from services.dashboard.api.parameters import RunName
from services.dashboard.api.problems import ProblemError, problems
from services.dashboard.api_model import LARGEST, ApiModel
from services.dashboard.live.source import DEADLINE_SECONDS, Source
from services.dashboard.live.view import Views
from tppo.rollout import Action, Command
from tppo.streams import StreamsError

Rollouts = Annotated[list[Annotated[str, Field(max_length=300)]] | None, Field(max_length=1000)]
Setting = Literal["actor.lr", "critic.lr", "generation.temperature", "run.max_policy_lag"]


class Accepted(ApiModel):
    """The command is in the run's inbox; /status has its outcome."""

    command_id: str


class ControlRequest(BaseModel):
    """The body of a request; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class StopAfterStep(ControlRequest):
    """When to stop."""

    step: Annotated[int, Field(ge=0, le=LARGEST)] | None = None
    """The last step; null: the current one."""


class RollBack(ControlRequest):
    """Which checkpoint to restore."""

    version: Annotated[int, Field(ge=0, le=LARGEST)]
    """The policy version of a checkpoint that is kept."""


class RetryParked(ControlRequest):
    """Which parked rollouts to retry."""

    rollouts: Rollouts = None
    """Null: all of them, or those of the cause."""
    cause: Annotated[str, Field(min_length=1, max_length=2000)] | None = None
    """All that are parked for a cause of this kind when the command is applied; /ledger counts them by cause."""

    @model_validator(mode="after")
    def _names_or_cause(self) -> Self:
        if self.rollouts is not None and self.cause is not None:
            raise ValueError("rollouts and cause in one request; expected one of them, or neither for all")
        return self


class DropParked(RetryParked):
    """Which parked rollouts to drop."""

    reason: Annotated[str, Field(min_length=1, max_length=500)]
    """Kept in the ledger."""


class ChangeSetting(ControlRequest):
    """A setting that may change while the run is training."""

    key: Setting
    value: Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]
    """Learning rates and the temperature are above 0; run.max_policy_lag is a whole number."""

    def refusal(self) -> str:
        """Why the value does not fit the key; empty when it does."""
        if self.key == "run.max_policy_lag":
            return "" if self.value == int(self.value) else "run.max_policy_lag: expected a whole number"
        return "" if self.value > 0 else f"{self.key}: expected a number above 0"


class CommandSender:
    """Appends an operator's commands to the live run's inbox, or says why it cannot."""

    def __init__(self, views: Views, source: Source | None, *, issued_by: str) -> None:
        self._catalog = views.catalog
        self._source = source
        self._issued_by = issued_by

    async def send(self, run: str | None, action: Action, arguments: dict[str, Any] | None = None) -> Accepted:
        """The accepted command. Raises a problem."""
        source = self._source_of(self._catalog.default() if run is None else run)
        given = {key: json.dumps(value) for key, value in (arguments or {}).items() if value is not None}
        command = Command(uuid.uuid4().hex, action, given, time.time(), self._issued_by)
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                await source.append(command)
        except (StreamsError, TimeoutError) as error:
            reason = str(error) or f"no answer within {DEADLINE_SECONDS:g} s"
            raise ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, f"Redis does not answer: {reason}") from None
        return Accepted(command_id=command.command_id)

    def _source_of(self, name: str) -> Source:
        if name not in self._catalog.names():
            raise ProblemError(HTTPStatus.NOT_FOUND, f"there is no run {name!r}; expected one of /api/v1/runs")
        if name != self._catalog.live or self._source is None:
            reason = f"run {name!r} is read from its folder alone; only the live run can be steered"
            raise ProblemError(HTTPStatus.CONFLICT, reason)
        return self._source


def router(views: Views, source: Source | None, access: Access, *, issued_by: str) -> APIRouter:
    """The addresses; `issued_by` names this process in the commands. Without a source, each answers 409."""
    routes = APIRouter(
        prefix="/control",
        tags=["control"],
        dependencies=access.dependencies_to_steer(),
        responses=problems(
            unauthorized="without the token",
            forbidden="from a page of another origin",
            not_found="no such run",
            conflict="the run is not a live one",
            service_unavailable="Redis does not answer",
        ),
    )

    sender = CommandSender(views, source, issued_by=issued_by)
    _add_course(routes, sender)
    _add_work(routes, sender)
    return routes


def _add_course(routes: APIRouter, sender: CommandSender) -> None:
    """Requests about the training steps."""

    @routes.post("/pause", status_code=202)
    async def pause(run: RunName = None) -> Accepted:
        """Pause before the next training step, until resumed."""
        return await sender.send(run, Action.PAUSE)

    @routes.post("/resume", status_code=202)
    async def resume(run: RunName = None) -> Accepted:
        """Resume a paused run."""
        return await sender.send(run, Action.RESUME)

    @routes.post("/checkpoint", status_code=202)
    async def checkpoint(run: RunName = None) -> Accepted:
        """Commit a checkpoint after the current training step."""
        return await sender.send(run, Action.CHECKPOINT)

    @routes.post("/stop-after-step", status_code=202)
    async def stop_after_step(request: StopAfterStep | None = None, run: RunName = None) -> Accepted:
        """Stop the run after a training step, with a checkpoint."""
        return await sender.send(run, Action.STOP_AFTER_STEP, (request or StopAfterStep()).model_dump())

    @routes.post("/roll-back", status_code=202)
    async def roll_back(request: RollBack, run: RunName = None) -> Accepted:
        """Restore a checkpoint and train on from there."""
        return await sender.send(run, Action.ROLL_BACK, request.model_dump())


def _add_work(routes: APIRouter, sender: CommandSender) -> None:
    """Requests about parked rollouts, and the settings."""

    @routes.post("/retry-parked", status_code=202)
    async def retry_parked(request: RetryParked | None = None, run: RunName = None) -> Accepted:
        """Request parked windows and scores again."""
        return await sender.send(run, Action.RETRY_PARKED, (request or RetryParked()).model_dump())

    @routes.post("/drop-parked", status_code=202)
    async def drop_parked(request: DropParked, run: RunName = None) -> Accepted:
        """Drop parked rollouts, with a reason that the ledger keeps."""
        return await sender.send(run, Action.DROP_PARKED, request.model_dump())

    @routes.post("/settings", status_code=202)
    async def settings(request: ChangeSetting, run: RunName = None) -> Accepted:
        """Change a setting from the next training step on."""
        if reason := request.refusal():
            raise ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, reason)
        value = int(request.value) if request.key == "run.max_policy_lag" else request.value
        return await sender.send(run, Action.SET, {"key": request.key, "value": value})
