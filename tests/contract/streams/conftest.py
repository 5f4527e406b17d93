"""The two kinds of streams that the contract suite runs on, each with a way to let time pass without waiting."""

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import pytest

from tppo.streams import Inbox, MemoryStreams, RequestQueue, Streams
from tppo.streams.connection import RedisClient
from tppo.streams.redis import RedisStreams

LEASE_SECONDS = 60.0


class Backend(Protocol):
    """Streams, and what a test does to the world around them."""

    streams: Streams

    def reopened(self) -> Streams:
        """The same streams, as a restarted process finds them."""

    async def age_leases(self, lifetimes: float) -> None:
        """Let so many times the length of a lease go by."""


class MemoryBackend:
    def __init__(self) -> None:
        self._now = 1000.0
        self._memory = MemoryStreams(lease_seconds=LEASE_SECONDS, clock=lambda: self._now)
        self.streams: Streams = self._memory

    def reopened(self) -> Streams:
        return self._memory.reopened()

    async def age_leases(self, lifetimes: float) -> None:
        self._now += lifetimes * LEASE_SECONDS


class RedisBackend:
    def __init__(self, client: RedisClient, run: str) -> None:
        self._client = client
        self._run = run
        self.streams = self.reopened()

    def reopened(self) -> Streams:
        return RedisStreams(self._client, run=self._run, lease_seconds=LEASE_SECONDS, look_seconds=0.0)

    async def age_leases(self, lifetimes: float) -> None:
        """Dates back each delivery in the server's own records."""
        key = f"tppo:{{{self._run}}}:window_requests"
        delivered: list[dict[str, Any]] = await self._client.xpending_range(key, "workers", "-", "+", 1000)
        for entry in delivered:
            idle = entry["time_since_delivered"] + round(lifetimes * LEASE_SECONDS * 1000)
            entry_ids = [entry["message_id"]]
            await self._client.xclaim(key, "workers", entry["consumer"], 0, entry_ids, idle=idle, justid=True)


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.redis)])
def backend(request: pytest.FixtureRequest) -> Backend:
    if request.param == "memory":
        return MemoryBackend()
    return RedisBackend(request.getfixturevalue("redis_client"), request.getfixturevalue("run_name"))


@pytest.fixture
def streams(backend: Backend) -> Streams:
    return backend.streams


@pytest.fixture
def queue(backend: Backend) -> RequestQueue:
    return backend.streams.window_requests


@pytest.fixture
def inbox(backend: Backend) -> Inbox:
    return backend.streams.inbox


@pytest.fixture
def age_leases(backend: Backend) -> Callable[[float], Awaitable[None]]:
    """Ages the leases of window requests by so many times the length of a lease."""
    return backend.age_leases


@pytest.fixture
def reopened(backend: Backend) -> Callable[[], Streams]:
    return backend.reopened
