"""/stream: what happens in the run, as server-sent events."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Header
from sse_starlette import EventSourceResponse, ServerSentEvent

from services.dashboard.api.parameters import RunName
from services.dashboard.api.problems import ProblemError, problems
from services.dashboard.live.stream import Broadcaster
from services.dashboard.live.view import Views

HEARTBEAT_SECONDS = 15
"""A comment line, so that proxies and readers know that the line is up."""
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
        if not broadcaster.has_room():
            raise ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, "the stream has as many readers as it serves")
        return EventSourceResponse(_events(broadcaster, _position(last_event_id)), ping=HEARTBEAT_SECONDS)

    return routes


def _position(last_event_id: str | None) -> int | None:
    """What a browser sends back; anything else than one of our ids begins now."""
    return int(last_event_id) if last_event_id and last_event_id.isascii() and last_event_id.isdecimal() else None


async def _events(broadcaster: Broadcaster, position: int | None) -> AsyncIterator[ServerSentEvent]:
    async with aclosing(
        broadcaster.messages(position)
    ) as messages:  # so that a reader that leaves is counted out at once
        async for message in messages:
            yield ServerSentEvent(message.data, id=str(message.id), event=message.event)
