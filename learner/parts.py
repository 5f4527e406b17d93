"""What a learner is made of."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from learner.exchange.weight_publisher import Found, Transport, WeightPublisher
from learner.persistence.checkpoint_writer import CheckpointWriter
from learner.persistence.deferred_weights import PutAside
from learner.reporting.generation_watch import GenerationWatch
from learner.reporting.journal import Journal
from learner.reporting.metrics_log import MetricsLog
from learner.reporting.trace_writer import TraceWriter
from learner.reporting.watchdog import Everyone, nobody
from learner.rollouts.manager import Books
from learner.steering import Steering
from learner.step.trainer import Trainer
from tppo.generation_totals import GenerationTotals
from tppo.presence import Presence
from tppo.streams import Streams


@dataclass(frozen=True, slots=True)
class Outside:
    """How a learner reaches the other processes, besides its streams."""

    transport: Transport
    announce: Callable[[Mapping[str, Any]], Awaitable[None]]  # the learner's state, once per heartbeat
    find_generators: Callable[[], Awaitable[Mapping[str, Found]]]  # those alive, by name
    generation_totals: Callable[[], Awaitable[GenerationTotals]]
    everyone: Callable[[], Awaitable[Sequence[Presence]]]  # all processes, those that fell silent as well
    tell: Callable[[Mapping[str, Any]], None] = lambda line: None  # each line of metrics.jsonl; never waits


@dataclass(frozen=True, slots=True)
class Parts:
    """What `__main__` builds and hands in."""

    streams: Streams
    books: Books
    trainer: Trainer
    publisher: WeightPublisher
    checkpoints: CheckpointWriter
    traces: TraceWriter
    metrics_log: MetricsLog
    journal: Journal
    put_aside: PutAside
    steering: Steering
    announce: Callable[[Mapping[str, Any]], Awaitable[None]]
    generation: GenerationWatch
    everyone: Everyone = nobody
    until_step: int | None = None  # end there, although the run is longer
