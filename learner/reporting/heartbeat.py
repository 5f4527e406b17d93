"""The learner's heartbeat: its state, once a second, to Redis and to Prometheus."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from typing import Any

from learner.rollouts.manager import RolloutManager
from tppo.streams import Streams

Status = Mapping[str, Any]


def missing_rows(manager: RolloutManager) -> str:
    """What the next training step waits for, in words."""
    if manager.evaluator.is_under_way and manager.ledger.num_trained == 0:
        return "evaluation of the base model"
    states = manager.ledger.count_by_state()
    return f"{states['requested']} windows and {states['scoring']} scores; {states['ready']} windows are ready"


class Heartbeat:
    """Adds what the service does not know. The queues are those of the heartbeat before: a look must not delay it."""

    def __init__(
        self, announce: Callable[[Status], Awaitable[None]], streams: Streams, *, completed: Callable[[Status], Status]
    ) -> None:
        """`completed` gives the status with more entries."""
        self._announce = announce
        self._streams = streams
        self._completed = completed
        self._queues: dict[str, Any] = {}

    async def announce(self, status: Status) -> None:
        """Once. Raises `StreamsError` when Redis does not take it; Prometheus has the status all the same."""
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
            "dead_letters": asdict(await streams.dead_letters.count()),
        }
