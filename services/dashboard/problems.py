"""Errors as problem documents (RFC 9457), so that a program can read them too."""

from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from redis.exceptions import RedisError
from starlette.exceptions import HTTPException


class Problem(BaseModel):
    """What went wrong."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str


class ProblemResponse(JSONResponse):
    """A problem document."""

    media_type = "application/problem+json"


def problem_response(status: int, detail: str, headers: dict[str, str] | None = None) -> ProblemResponse:
    """The document for a status code."""
    problem = Problem(title=HTTPStatus(status).phrase, status=status, detail=detail)
    return ProblemResponse(problem.model_dump(), status_code=status, headers=headers)


def answer_with_problems(app: FastAPI) -> None:
    """Turn the errors of an application into problem documents."""

    @app.exception_handler(HTTPException)
    async def of_http(_: Request, error: HTTPException) -> ProblemResponse:
        return problem_response(error.status_code, str(error.detail), dict(error.headers or {}))

    @app.exception_handler(RedisError)
    async def of_redis(_: Request, error: RedisError) -> ProblemResponse:
        return problem_response(HTTPStatus.SERVICE_UNAVAILABLE, f"Redis does not answer: {error}")
