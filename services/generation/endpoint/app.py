"""The endpoint's addresses. Everything but /healthz needs the token; nothing of a body is read before it is shown."""

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from sse_starlette import EventSourceResponse
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from services.generation.endpoint.answers import ResponseChoice
from services.generation.endpoint.completions import Asked, Completions
from services.generation.endpoint.errors import EndpointError
from services.generation.endpoint.requests import ChatBody, CompletionBody, SamplingBody, parsed
from tppo.process.cancellation import cancel_all
from tppo.security.authentication import Service, Token, is_bearer

MAX_BODY_BYTES = 4 * 2**20
PING_SECONDS = 15
"""A comment line while a stream waits for a slot, so that proxies and readers know that it is up."""
READING_SECONDS = 30.0
"""For a client to read what is left of an answer when its sampling has ended."""
DONE = "[DONE]"
log = logging.getLogger(__name__)


def create_app(completions: Completions, *, token: Token) -> FastAPI:
    """The application; `token` is never empty."""
    app = FastAPI(title="T-PPO: the policy under training", docs_url=None, redoc_url=None, openapi_url=None)
    created = int(time.time())

    @app.exception_handler(EndpointError)
    async def refused(_: Request, error: EndpointError) -> JSONResponse:
        return error.response()

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> JSONResponse:
        message = f"{request.method} {request.url.path}: {error.detail}"
        return EndpointError(HTTPStatus(error.status_code), message).response()

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> JSONResponse:
        log.error("%s %s failed", request.method, request.url.path, exc_info=error)
        message = "the endpoint failed; the generator's log says why"
        return EndpointError(HTTPStatus.INTERNAL_SERVER_ERROR, message).response()

    @app.get("/healthz", response_class=PlainTextResponse)
    async def healthz() -> str:
        return "ok\n"

    @app.get("/v1/models")
    async def models(request: Request) -> JSONResponse:
        require_token(request, token)
        return JSONResponse({"object": "list", "data": [_model(completions, created)]})

    @app.get("/v1/models/{name:path}")
    async def model(request: Request, name: str) -> JSONResponse:
        require_token(request, token)
        if name != completions.model:
            message = f"no model {name[:100]!r}; expected {completions.model!r}"
            raise EndpointError(HTTPStatus.NOT_FOUND, message, param="model", code="model_not_found")
        return JSONResponse(_model(completions, created))

    @app.post("/v1/completions")
    async def complete(request: Request) -> Response:
        require_token(request, token)
        return CompletionResponse(completions, CompletionBody)

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        require_token(request, token)
        return CompletionResponse(completions, ChatBody)

    return app


def require_token(request: Request, token: Token) -> None:
    """Raise `EndpointError` unless the request brings it."""
    if not is_bearer(request.headers.get("authorization", ""), token):
        message = f"expected the bearer token of the endpoint (endpoint.token in the run's folder, or {VARIABLE})"
        raise EndpointError(HTTPStatus.UNAUTHORIZED, message, code="invalid_api_key")


VARIABLE = Service.ENDPOINT.variable


def _model(completions: Completions, created: int) -> dict[str, Any]:
    return {
        "id": completions.model,
        "object": "model",
        "created": created,
        "owned_by": "tppo",
        "max_model_len": completions.limits.num_tokens,
        "policy_version": completions.policy_version,
    }


class CompletionResponse(Response):
    """Reads the body, samples and answers within the room of the endpoint; all ends when the client leaves."""

    def __init__(self, completions: Completions, kind: type[SamplingBody]) -> None:
        super().__init__()
        self._completions = completions
        self._kind = kind

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The answer, or why there is none."""
        try:
            with self._completions.room.taken() as take:
                async with asyncio.timeout(self._completions.limits.timeout_seconds + READING_SECONDS):
                    response = await self._response(scope, receive, take)
                    await response(scope, receive, send)
        except EndpointError as error:
            await error.response()(scope, receive, send)
        except TimeoutError:  # the connection is closed, since its answer is incomplete
            log.warning("a client does not read its answer")

    async def _response(self, scope: Scope, receive: Receive, take: Callable[[int], None]) -> Response:
        request = Request(scope, receive)
        body = parsed(await _bounded_body(request), self._kind)
        asked = await self._completions.asked(body, take)
        if body.stream:
            events = self._events(asked, includes_usage=body.includes_usage)
            return EventSourceResponse(events, ping=PING_SECONDS, sep="\n")
        answering = asyncio.create_task(self._answer(asked))
        leaving = asyncio.create_task(_has_left(request))
        try:
            await asyncio.wait([answering, leaving], return_when=asyncio.FIRST_COMPLETED)
            return JSONResponse(answering.result()) if answering.done() else Response(status_code=499)
        finally:
            await cancel_all([answering, leaving])

    async def _answer(self, asked: Asked) -> dict[str, Any]:
        choices = [ResponseChoice(index) for index in range(len(asked.requests))]
        async with aclosing(self._completions.pieces(asked)) as pieces:
            async for piece in pieces:
                choices[piece.index].add(piece)
        return asked.shape.whole(choices)

    async def _events(self, asked: Asked, *, includes_usage: bool) -> AsyncIterator[str]:
        choices = [ResponseChoice(index) for index in range(len(asked.requests))]
        for chunk in asked.shape.first_chunks():
            yield json.dumps(chunk)
        try:
            async with aclosing(self._completions.pieces(asked)) as pieces:
                async for piece in pieces:
                    choice = choices[piece.index]
                    is_first = not choice.sampled
                    choice.add(piece)
                    yield json.dumps(asked.shape.chunk(piece, is_first=is_first))
            if includes_usage:
                yield json.dumps(asked.shape.last_chunk(choices))
        except EndpointError as error:
            yield json.dumps(error.body())
        yield DONE


async def _bounded_body(request: Request) -> bytes:
    """The whole body. Raises `EndpointError` for a long one, as soon as that is known."""
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MAX_BODY_BYTES:
            message = f"a body of more than {MAX_BODY_BYTES} bytes"
            raise EndpointError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, message)
    return bytes(body)


async def _has_left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
