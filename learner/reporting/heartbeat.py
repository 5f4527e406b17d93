"""The learner's heartbeat: what the service tells, and what it does not know itself, to Redis and to Prometheus."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any

import redis.asyncio

from tppo.presence import Presence, announce
from tppo.prometheus import Exporter
from tppo.streams import Streams


class Announcement:
    """Once per heartbeat. The queues are those of the heartbeat before: looking at them must not hold it up."""

    def __init__(
        self,
        client: redis.asyncio.Redis,
        run: str,
        presence: Presence,
        exporter: Exporter,
        streams: Streams,
        *,
        incarnation: int,
        completed: Callable[[Mapping[str, Any]], Mapping[str, Any]],
    ) -> None:
        """`completed` gives the status with more entries."""
        self._client = client
        self._run = run
        self._presence = presence
        self._exporter = exporter
        self._streams = streams
        self._incarnation = incarnation
        self._completed = completed
        self._queues: dict[str, Any] = {}

    async def announce(self, status: Mapping[str, Any]) -> None:
        """Raises what Redis raises; Prometheus is told all the same."""
        told = self._exporter.take(self._completed({**status, **self._queues}))
        await announce(self._client, self._run, replace(self._presence, status=told), incarnation=self._incarnation)
        self._exporter.note_heartbeat()
        self._queues = await self._look()

    async def _look(self) -> dict[str, Any]:
        streams = self._streams
        return {
            "queues": {
                "window_requests": asdict(await streams.window_requests.depth()),
                "reward_requests": asdict(await streams.reward_requests.depth()),
            },
            "num_inbox_entries": await streams.inbox.length(),
        }
