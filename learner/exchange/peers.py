"""How a learner reaches the other processes, besides its streams."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from learner.exchange.sleeping_engines import LetSleep, nobody_sleeps
from learner.exchange.weight_publisher import FoundGenerator, Transport
from tppo.generation_totals import GenerationTotals
from tppo.process.presence import Presence


@dataclass(frozen=True, slots=True)
class Peers:
    """Built by `__main__` on Redis and gRPC; a replay has none."""

    transport: Transport
    announce: Callable[[Mapping[str, Any]], Awaitable[None]]  # the learner's state, once per heartbeat
    find_generators: Callable[[], Awaitable[Mapping[str, FoundGenerator]]]  # those with a recent heartbeat, by name
    generation_totals: Callable[[], Awaitable[GenerationTotals]]
    all_processes: Callable[[], Awaitable[Sequence[Presence]]]  # those without a recent heartbeat as well
    let_sleep: LetSleep = nobody_sleeps  # a generator, by its address
    on_metrics_line: Callable[[Mapping[str, Any]], None] = lambda line: None  # each line of metrics.jsonl; never waits
