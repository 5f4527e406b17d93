"""What a learner consists of, in one record."""

from dataclasses import dataclass

from learner.evaluation_rounds import EvaluationRounds
from learner.exchange.peers import Peers
from learner.exchange.score_failures import ScoreFailures
from learner.persistence.checkpoint_writer import CheckpointWriter
from learner.reconfiguration import Reconfiguration
from learner.reporting.run_log import RunLog
from learner.rollouts.manager import RolloutManager
from learner.steering import Steering
from learner.step.trainer import Trainer
from tppo.streams import Streams


@dataclass(frozen=True, slots=True)
class Parts:
    """What `build.py` makes and the service runs."""

    streams: Streams
    peers: Peers
    manager: RolloutManager
    trainer: Trainer
    steering: Steering
    checkpoints: CheckpointWriter
    rounds: EvaluationRounds
    run_log: RunLog
    failures: ScoreFailures
    reconfiguration: Reconfiguration
