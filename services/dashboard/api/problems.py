"""Errors as problem documents (RFC 9457), so that a program can read them too."""

import logging
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import Field
from starlette.exceptions import HTTPException

from services.dashboard.api_model import ApiModel
from services.dashboard.history.catalog import NoSuchRunError

MEDIA_TYPE = "application/problem+json"
log = logging.getLogger(__name__)


class InvalidParameter(ApiModel):
    """One value that cannot be used."""

    where: str
    """query, path or body, and the name."""
    message: str


class Problem(ApiModel):
    """What went wrong."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    errors: list[InvalidParameter] = Field(default_factory=list)
    """What is wrong with the request, one by one; empty for other problems."""


class ProblemResponse(JSONResponse):
    """A problem document."""

    media_type = MEDIA_TYPE


class ProblemError(Exception):
    """Ends a request with a problem."""

    def __init__(self, status: int, detail: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = headers


def problem_response(
    status: int, detail: str, headers: dict[str, str] | None = None, errors: list[InvalidParameter] | None = None
) -> ProblemResponse:
    """The document for a status code."""
    problem = Problem(title=HTTPStatus(status).phrase, status=status, detail=detail, errors=errors or [])
    return ProblemResponse(problem.model_dump(), status_code=status, headers=headers)


def problems(**reasons: str) -> dict[int | str, dict[str, Any]]:
    """For the OpenAPI document: `not_found="..."` and its like, by the names of `http.HTTPStatus`."""
    statuses = {HTTPStatus[name.upper()]: reason for name, reason in reasons.items()}
    return {
        int(status): {
            "description": reason,
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status, reason in statuses.items()
    }


def answer_with_problems(app: FastAPI) -> None:
    """Turn the errors of an application into problem documents."""

    @app.exception_handler(HTTPException)
    async def of_http(_: Request, error: HTTPException) -> ProblemResponse:
        return problem_response(error.status_code, str(error.detail), dict(error.headers or {}))

    @app.exception_handler(ProblemError)
    async def of_problem(_: Request, error: ProblemError) -> ProblemResponse:
        return problem_response(error.status, error.detail, error.headers)

    @app.exception_handler(NoSuchRunError)
    async def of_run(_: Request, error: NoSuchRunError) -> ProblemResponse:
        return problem_response(HTTPStatus.NOT_FOUND, str(error))

    @app.exception_handler(RequestValidationError)
    async def of_validation(_: Request, error: RequestValidationError) -> ProblemResponse:
        errors = [
            InvalidParameter(where=".".join(str(part) for part in one["loc"]), message=str(one["msg"]))
            for one in error.errors()
        ]
        first = errors[0] if errors else InvalidParameter(where="request", message="not understood")
        detail = f"{first.where}: {first.message}"
        return problem_response(HTTPStatus.UNPROCESSABLE_ENTITY, detail, errors=errors)

    @app.exception_handler(Exception)
    async def of_bug(request: Request, error: Exception) -> ProblemResponse:
        log.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return problem_response(HTTPStatus.INTERNAL_SERVER_ERROR, "the dashboard failed; its log says why")
