"""What the dashboard knows about a run: one look at Redis and at the end of `metrics.jsonl`."""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import redis.asyncio

from tppo.presence import Presence, present
from tppo.streams import QueueDepth, RedisStreams

TAIL_BYTES = 256 * 1024
"""More than the lines since the last evaluation; a longer file is not read whole for each look."""

NOTHING = QueueDepth(num_waiting=0, num_leased=0)


@dataclass(frozen=True, kw_only=True)
class Observation:
    """A run as it is found, before it is explained."""

    now: float
    """Seconds since the epoch by the clock that the heartbeats bear."""
    presences: list[Presence] = field(default_factory=list)
    """Everybody who announced itself and did not withdraw, the silent ones too."""
    window_requests: QueueDepth = NOTHING
    reward_requests: QueueDepth = NOTHING
    num_inbox_entries: int = 0
    metric_lines: list[dict[str, Any]] = field(default_factory=list)
    """The newest lines of metrics.jsonl, oldest first."""


class Source(Protocol):
    """Where observations come from."""

    async def observe(self) -> Observation:
        """Look now; raises RedisError when the server does not answer."""


class RunSource:
    """A run in a Redis server and in its folder."""

    def __init__(self, client: redis.asyncio.Redis, streams: RedisStreams, *, run: str, metrics: Path) -> None:
        self._client = client
        self._streams = streams
        self._run = run
        self._metrics = metrics

    async def observe(self) -> Observation:
        """A few round trips."""
        seconds, microseconds = await self._client.time()
        return Observation(
            now=seconds + microseconds / 1e6,
            presences=await present(self._client, self._run, gone_after_seconds=math.inf),
            window_requests=await self._streams.window_requests.depth(),
            reward_requests=await self._streams.reward_requests.depth(),
            num_inbox_entries=await self._streams.inbox.length(),
            metric_lines=newest_lines(self._metrics),
        )


def newest_lines(path: Path, *, num_bytes: int = TAIL_BYTES) -> list[dict[str, Any]]:
    """The whole lines among the last bytes of a file; none while it is missing."""
    try:
        with path.open("rb") as file:
            start = max(0, path.stat().st_size - num_bytes)
            file.seek(start)
            text = file.read()
    except FileNotFoundError:
        return []
    if start > 0:
        text = text[text.find(b"\n") + 1 :]
    return [json.loads(line) for line in text[: text.rfind(b"\n") + 1].splitlines()]
