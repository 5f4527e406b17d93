"""Clients of an application over a folder of runs and an observation made up for each test."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from services.dashboard.api.access import Access
from services.dashboard.api.app import create_app
from services.dashboard.history.catalog import Catalog
from services.dashboard.live.source import Observation, Observer
from services.dashboard.live.stream import Broadcaster
from services.dashboard.live.view import Views
from tppo.process.presence import Presence
from tppo.rollout import Command

NOW = 1_800_000_100.0  # 2027-01-15 08:01:40 UTC
TOKEN = "secret"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


class FixedSource:
    """Returns or raises what it was made with, in order; keeps the commands for the inbox."""

    def __init__(self, *observations: Observation | Exception) -> None:
        self._observations = list(observations)
        self.inbox: list[Command] = []

    async def observe(self) -> Observation:
        """The next one; the last one stays."""
        observation = self._observations.pop(0) if len(self._observations) > 1 else self._observations[0]
        if isinstance(observation, Exception):
            raise observation
        return observation

    async def append(self, command: Command) -> None:
        if isinstance(self._observations[0], Exception):
            raise self._observations[0]
        self.inbox.append(command)


def process(kind: str, *, seconds_ago: float = 0.5, **status: Any) -> Presence:
    return Presence(
        name=f"{kind}-0",
        kind=kind,
        address="127.0.0.1:4000",
        started_at=NOW - 100,
        pid=1,
        host=socket.gethostname(),
        seen_at=NOW - seconds_ago,
        status=status,
    )


def views_of(root: Path, source: FixedSource | None = None, *, live: str = "") -> Views:
    """Of a folder, with a live run when there is a source."""
    return Views(Catalog(root, live=live), Observer(source) if source else None)


@asynccontextmanager
async def client_of(
    root: Path,
    source: FixedSource | None = None,
    *,
    live: str = "quick",
    access: Access | None = None,
    static: Path | None = None,
) -> AsyncIterator[httpx.AsyncClient]:
    """Of a live run when there is a source, else of the folder alone."""
    views = views_of(root, source, live=live if source else "")
    access = access or Access(token=TOKEN)
    app = create_app(views, Broadcaster(views), access=access, source=source, static=static or root / "static")
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost:8265") as client:
        yield client


async def answer_of(root: Path, address: str, source: FixedSource | None = None) -> Any:
    """The JSON behind an address below /api/v1."""
    async with client_of(root, source) as client:
        return (await client.get(f"/api/v1/{address}")).raise_for_status().json()
