"""The learner's heartbeat: what the service tells, and what it does not know itself, to Redis and to Prometheus."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from typing import Any

from tppo.streams import Streams

Status = Mapping[str, Any]


class Heartbeat:
    """The queues in it are those of the heartbeat before: looking at them must not hold it up."""

    def __init__(
        self, announce: Callable[[Status], Awaitable[None]], streams: Streams, *, completed: Callable[[Status], Status]
    ) -> None:
        """`completed` gives the status with more entries."""
        self._announce = announce
        self._streams = streams
        self._completed = completed
        self._queues: dict[str, Any] = {}

    async def announce(self, status: Status) -> None:
        """Once. Raises what Redis raises; Prometheus gets the status all the same."""
        await self._announce(self._completed({**status, **self._queues}))
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
