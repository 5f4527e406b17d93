"""What a learner consists of, in one record, and what it says of them."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from learner.evaluation_rounds import EvaluationRounds
from learner.exchange.peers import Peers
from learner.exchange.score_failures import ScoreFailures
from learner.exchange.weight_publisher import GeneratorState
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

    def status(self, generators: Mapping[str, GeneratorState], *, step: int, **state: Any) -> Mapping[str, Any]:
        """For the heartbeat: `state`, and what the parts know."""
        ledger, equation = self.manager.ledger, self.manager.ledger.conservation()
        return {
            **state,
            "step": step,
            "policy_version": step,
            "total_training_steps": self.reconfiguration.run.total_training_steps,
            "control": self.steering.status(),
            "last_checkpoint_step": self.checkpoints.last_step,
            "ledger": {
                **asdict(equation),
                "holds": equation.holds,
                "dropped_by_reason": dict(ledger.dropped),
                "rejected_records": ledger.num_rejected_records,
            },
            "rollouts": dict(ledger.count_by_state()),
            "duplicates": dict(ledger.duplicates),
            "generators": {name: asdict(generator) for name, generator in generators.items()},
        }
