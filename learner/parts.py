"""What a learner consists of, in one record, and what it says of them."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from learner.evaluation_rounds import EvaluationRounds
from learner.exchange.peers import Peers
from learner.exchange.score_failures import ScoreFailures
from learner.exchange.weight_publisher import GeneratorState, Snapshot, new_nonce
from learner.persistence.checkpoint_writer import CheckpointWriter
from learner.ranks.team import Team
from learner.reconfiguration import Reconfiguration
from learner.reporting.conditions import Conditions
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
    team: Team

    def snapshot(
        self, policy_version: int, tensors: Mapping[str, Tensor] | None = None, *, incarnation: int
    ) -> Snapshot:
        """Of these weights, or of the policy's, of which this is the one copy; in another thread than the loop's.

        The probe is of the weights that the policy computes with, so that a copy that is not theirs is found.
        """
        probe = self.trainer.probe(tensors)
        weights = tensors or self.trainer.policy_in_memory(new_nonce())
        assert weights is not None, "rank 0 runs the service"
        return Snapshot(
            weights,
            self.reconfiguration.run.name,
            policy_version,
            incarnation=incarnation,
            probe=probe,
            adapter=self.trainer.policy.weights.adapter,
        )

    def conditions(self) -> Conditions:
        """Under which this incarnation computes."""
        return Conditions.of(self.reconfiguration.config, self.trainer.roles.counts)

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
            "ranks": {rank: asdict(known) for rank, known in self.team.ranks().items()},
            "generators": {name: asdict(generator) for name, generator in generators.items()},
        }
