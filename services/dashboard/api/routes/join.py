"""/join: what a generator on any machine needs to serve the run; opened by the generation token alone."""

from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from fastapi import APIRouter, Depends
from fastapi.security import HTTPAuthorizationCredentials

from services.dashboard.api.access import BEARER
from services.dashboard.api.problems import ProblemError, problems
from services.dashboard.api_model import ApiModel
from tppo.security.authentication import Token, is_same_token


class JoinAnswer(ApiModel):
    """The run, for a generator that joins it."""

    run: str
    config: str
    """The configuration in force, as TOML, without the address of Redis."""
    redis_url: str
    """With the password."""
    model: dict[str, Any]
    """The config.json of the run's model; empty where this process cannot read it."""
    record_key: str
    """By which generators seal their records."""


@dataclass(frozen=True)
class Joining:
    """The answer, and the token that opens it."""

    answer: JoinAnswer = field(repr=False)
    token: Token = field(repr=False)


def router(joining: Joining | None) -> APIRouter:
    """The address; without a run that can be joined it says so."""
    routes = APIRouter(tags=["control"], responses=problems(not_found="no run that can be joined"))

    @routes.get("/join", responses=problems(unauthorized="without the generation token"))
    async def join(bearer: HTTPAuthorizationCredentials | None = Depends(BEARER)) -> JoinAnswer:  # noqa: B008  FastAPI's
        """All that a generator needs to join; only with the generation token as bearer token."""
        if joining is None:
            raise ProblemError(HTTPStatus.NOT_FOUND, "there is no run here that a generator can join")
        if bearer is None or not is_same_token(bearer.credentials, joining.token):
            challenge = {"WWW-Authenticate": "Bearer"}
            raise ProblemError(HTTPStatus.UNAUTHORIZED, "joining needs the run's generation token", challenge)
        return joining.answer

    return routes
