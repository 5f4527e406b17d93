"""/stream: what happens in the run, as server-sent events."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from http import HTTPStatus
from typing import Annotated

import anyio
from fastapi import APIRouter, Header
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.types import Receive, Scope, Send

from services.dashboard.api.parameters import RunName
from services.dashboard.api.problems import ProblemError, problems
from services.dashboard.live.stream import Broadcaster, TooManyReadersError
from services.dashboard.live.view import Views

HEARTBEAT_SECONDS = 15
"""A comment line, so that proxies and readers know that the line is up."""
END_SECONDS = 2.0
"""For the last status to a reader when the server ends, one comes each second; the reader is cut off then."""
EVENTS = """Server-sent events with rising ids, ten messages a second at most: `status` (the answer of /status, once a
second), `steps` and `evaluations` ({"lines": [...]}, of metrics.jsonl), `windows` ({"bars": [...]}, new or changed bars
of /windows), `events` ({"items": [...]}, of /events) and `reset` (messages are missing: read the other
addresses again). Resumes after Last-Event-ID."""


def router(views: Views, broadcaster: Broadcaster) -> APIRouter:
    """The address."""
    routes = APIRouter(tags=["stream"])

    @routes.get(
        "/stream",
        description=EVENTS,
        response_class=EventSourceResponse,
        responses={
            200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}},
            **problems(
                not_found="no such run, or not the one that is followed", service_unavailable="too many readers"
            ),
        },
    )
    async def stream(
        run: RunName = None, last_event_id: Annotated[str | None, Header(max_length=40)] = None
    ) -> EventSourceResponse:
        followed = views.catalog.default()
        if run not in (None, followed):
            raise ProblemError(HTTPStatus.NOT_FOUND, f"only the run {followed!r} is followed; read the others' answers")
        return BoundedStream(broadcaster, _position(last_event_id))

    return routes


class BoundedStream(EventSourceResponse):
    """Takes its place among the readers when it is sent, and gives it back however that ends."""

    def __init__(self, broadcaster: Broadcaster, position: int | None) -> None:
        is_ending = anyio.Event()
        super().__init__(
            events(broadcaster, position, is_ending),
            ping=HEARTBEAT_SECONDS,
            shutdown_event=is_ending,
            shutdown_grace_period=END_SECONDS,
        )
        self._broadcaster = broadcaster

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send messages until the reader leaves. Raises a problem when there is no place."""
        try:
            with self._broadcaster.reading():
                await super().__call__(scope, receive, send)
        except TooManyReadersError as error:
            raise ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, str(error)) from None


def _position(last_event_id: str | None) -> int | None:
    """What a browser sends back; anything else than one of our ids begins now."""
    return int(last_event_id) if last_event_id and last_event_id.isascii() and last_event_id.isdecimal() else None


async def events(
    broadcaster: Broadcaster, position: int | None, is_ending: anyio.Event
) -> AsyncIterator[ServerSentEvent]:
    """Until the reader leaves, or has the first status of after the moment at which the server began to end."""
    ending_since: int | None = None
    async with aclosing(
        broadcaster.messages(position)
    ) as messages:  # so that a reader that leaves is counted out at once
        async for message in messages:
            yield ServerSentEvent(message.data, id=str(message.id), event=message.event)
            if ending_since is not None and message.event == "status" and message.id > ending_since:
                return
            if is_ending.is_set() and ending_since is None:
                ending_since = broadcaster.newest_id
