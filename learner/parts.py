"""What a learner is made of."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from learner.exchange.weight_publisher import WeightPublisher
from learner.persistence.checkpoint_writer import CheckpointWriter
from learner.persistence.deferred_weights import DeferredWeights
from learner.reporting.generation_watch import GenerationWatch
from learner.reporting.journal import JournalWriter
from learner.reporting.metrics_log import MetricsLog
from learner.reporting.trace_writer import TraceWriter
from learner.reporting.watchdog import Everyone, nobody
from learner.rollouts.manager import RolloutManager
from learner.steering import Steering
from learner.step.trainer import Trainer
from tppo.streams import Streams


@dataclass(frozen=True, slots=True)
class Parts:
    """What `__main__` builds and hands in."""

    streams: Streams
    manager: RolloutManager
    trainer: Trainer
    publisher: WeightPublisher
    checkpoints: CheckpointWriter
    traces: TraceWriter
    metrics_log: MetricsLog
    journal: JournalWriter
    deferred_weights: DeferredWeights
    steering: Steering
    announce: Callable[[Mapping[str, Any]], Awaitable[None]]
    generation: GenerationWatch
    everyone: Everyone = nobody
    until_step: int | None = None  # end there, although the run is longer
