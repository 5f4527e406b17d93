"""/control: what a person asks of the run. Each request becomes a record of its inbox, so that a replay sees it."""

from http import HTTPStatus
from typing import Annotated, Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from services.dashboard.api.access import Access
from services.dashboard.api.parameters import LARGEST, RunName
from services.dashboard.api.problems import ProblemError, problems
from services.dashboard.api_model import ApiModel
from services.dashboard.live.commands import CommandSender, Sendable
from services.dashboard.live.view import Views
from tppo.streams import StreamsError

Rollouts = Annotated[list[Annotated[str, Field(max_length=300)]] | None, Field(max_length=1000)]
Setting = Literal["actor.lr", "critic.lr", "generation.temperature", "run.max_policy_lag"]


class Accepted(ApiModel):
    """The command stands in the run's inbox; /status tells what becomes of it."""

    command_id: str


class Wish(BaseModel):
    """The body of a request; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class StopAfterStep(Wish):
    """When to stop."""

    step: Annotated[int, Field(ge=0, le=LARGEST)] | None = None
    """The last step; null: the one that is under way."""


class RollBack(Wish):
    """Where to return to."""

    version: Annotated[int, Field(ge=0, le=LARGEST)]
    """The policy version of a checkpoint that is kept."""


class RetryParked(Wish):
    """Which parked work to try again."""

    rollouts: Rollouts = None
    """Null: all of it."""


class DropParked(RetryParked):
    """Which parked work to give up."""

    reason: Annotated[str, Field(min_length=1, max_length=500)]
    """Kept in the ledger."""


class ChangeSetting(Wish):
    """A setting that may change in a run."""

    key: Setting
    value: Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]
    """Learning rates and the temperature are above 0; run.max_policy_lag is a whole number."""

    def refusal(self) -> str:
        """Why the value does not fit the key; empty when it does."""
        if self.key == "run.max_policy_lag":
            return "" if self.value == int(self.value) else "run.max_policy_lag: expected a whole number"
        return "" if self.value > 0 else f"{self.key}: expected a number above 0"


class SteeringState:
    """Passes wishes on to the live run, or says why it cannot."""

    def __init__(self, views: Views, sender: CommandSender | None) -> None:
        self._catalog = views.catalog
        self._sender = sender

    async def send(self, run: str | None, action: Sendable, arguments: dict[str, Any] | None = None) -> Accepted:
        """The accepted command. Raises a problem."""
        name = self._catalog.default() if run is None else run
        if name not in self._catalog.names():
            raise ProblemError(HTTPStatus.NOT_FOUND, f"there is no run {name!r}; expected one of /api/v1/runs")
        if name != self._catalog.live:
            reason = f"run {name!r} is read from its folder alone: no Redis is known through which it could be steered"
            raise ProblemError(HTTPStatus.CONFLICT, reason)
        if self._sender is None:
            raise ProblemError(HTTPStatus.CONFLICT, "the learners of this version take no commands")
        given = {key: value for key, value in (arguments or {}).items() if value is not None}
        try:
            return Accepted(command_id=await self._sender.send(action, given))
        except (StreamsError, TimeoutError) as error:
            raise ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, f"Redis does not answer: {error}") from None


def router(views: Views, sender: CommandSender | None, access: Access) -> APIRouter:
    """The addresses; without a sender each of them says why it cannot pass anything on."""
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

    steering = SteeringState(views, sender)
    _add_course(routes, steering)
    _add_work(routes, steering)
    return routes


def _add_course(routes: APIRouter, steering: SteeringState) -> None:
    """When the run goes on, and from where."""

    @routes.post("/pause", status_code=202)
    async def pause(run: RunName = None) -> Accepted:
        """Stop at the next step's border, until resumed."""
        return await steering.send(run, "PAUSE")

    @routes.post("/resume", status_code=202)
    async def resume(run: RunName = None) -> Accepted:
        """Go on."""
        return await steering.send(run, "RESUME")

    @routes.post("/checkpoint", status_code=202)
    async def checkpoint(run: RunName = None) -> Accepted:
        """Commit a checkpoint at the next step's border."""
        return await steering.send(run, "CHECKPOINT")

    @routes.post("/stop-after-step", status_code=202)
    async def stop_after_step(wish: StopAfterStep | None = None, run: RunName = None) -> Accepted:
        """End the run in order, after a step."""
        return await steering.send(run, "STOP_AFTER_STEP", (wish or StopAfterStep()).model_dump())

    @routes.post("/roll-back", status_code=202)
    async def roll_back(wish: RollBack, run: RunName = None) -> Accepted:
        """Return to a checkpoint."""
        return await steering.send(run, "ROLL_BACK", wish.model_dump())


def _add_work(routes: APIRouter, steering: SteeringState) -> None:
    """What becomes of parked work, and the settings."""

    @routes.post("/retry-parked", status_code=202)
    async def retry_parked(wish: RetryParked | None = None, run: RunName = None) -> Accepted:
        """Try parked work again."""
        return await steering.send(run, "RETRY_PARKED", (wish or RetryParked()).model_dump())

    @routes.post("/drop-parked", status_code=202)
    async def drop_parked(wish: DropParked, run: RunName = None) -> Accepted:
        """Give parked work up, for a reason that the ledger keeps."""
        return await steering.send(run, "DROP_PARKED", wish.model_dump())

    @routes.post("/settings", status_code=202)
    async def settings(wish: ChangeSetting, run: RunName = None) -> Accepted:
        """Change a setting from the next step on."""
        if reason := wish.refusal():
            raise ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, reason)
        value = int(wish.value) if wish.key == "run.max_policy_lag" else wish.value
        return await steering.send(run, "SET", {"key": wish.key, "value": value})
