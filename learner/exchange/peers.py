"""How a learner reaches the other processes, besides its streams."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from learner.exchange.weight_publisher import FoundGenerator, Transport
from tppo.generation_totals import GenerationTally, GenerationTotals
from tppo.presence import Presence, present
from tppo.streams.connection import RedisClient

REMEMBERED_SECONDS = 24 * 3600.0  # a process whose heartbeat has been missing for longer is not reported any more


@dataclass(frozen=True, slots=True)
class Peers:
    """Built by `__main__` on Redis and gRPC; a replay has none."""

    transport: Transport
    announce: Callable[[Mapping[str, Any]], Awaitable[None]]  # the learner's state, once per heartbeat
    find_generators: Callable[[], Awaitable[Mapping[str, FoundGenerator]]]  # those with a recent heartbeat, by name
    generation_totals: Callable[[], Awaitable[GenerationTotals]]
    all_processes: Callable[[], Awaitable[Sequence[Presence]]]  # those without a recent heartbeat as well
    on_metrics_line: Callable[[Mapping[str, Any]], None] = lambda line: None  # each line of metrics.jsonl; never waits


class PresentProcesses:
    """The processes of a run, as their heartbeats in Redis show them."""

    def __init__(self, client: RedisClient, run: str) -> None:
        self._client = client
        self._run = run
        self._generators = GenerationTally()

    async def find_generators(self) -> Mapping[str, FoundGenerator]:
        """Those that take weights now, by name."""
        generators = [one for one in await self._present() if one.kind == "generation" and one.address]
        return {one.name: FoundGenerator(one.address, one.started_at) for one in generators}

    async def generation_totals(self) -> GenerationTotals:
        """What all generators have done, those that have ended too."""
        self._generators.observe_all(await self._present())
        return self._generators.totals()

    async def all_processes(self) -> list[Presence]:
        """All processes of the last day."""
        return await present(self._client, self._run, gone_after_seconds=REMEMBERED_SECONDS)

    async def _present(self) -> list[Presence]:
        return await present(self._client, self._run)
