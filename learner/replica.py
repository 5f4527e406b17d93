"""What a rank other than 0 has: the models and the trainer of the run, which follow rank 0's."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from learner.networks import Models, load_own_models
from learner.parallel.roles import Roles
from learner.persistence import checkpoint
from learner.persistence.definition import with_values
from learner.persistence.network_folders import describe_network
from learner.ranks import calls
from learner.ranks.channel import RankMessage
from learner.ranks.team import Beginning
from learner.state import new_trainer
from learner.step.trainer import Trainer
from tppo.config import Config, ConfigError
from tppo.run_folder.checkpoints import CheckpointFolder
from tppo.run_folder.paths import RunPaths


@dataclass(slots=True)
class Replica:
    """Of one rank."""

    config: Config  # in force
    models: Models
    trainer: Trainer

    @classmethod
    def loaded(cls, config: Config, beginning: Beginning, roles: Roles) -> Self:
        """As rank 0 begins. Raises `ConfigError`."""
        in_force = with_values(config, {**beginning.settings, "trace.enabled": False})
        path = None
        if beginning.step is not None:
            path = CheckpointFolder(RunPaths(config.run.path).checkpoints).of_step(beginning.step)
            if not path.is_dir():
                raise ConfigError(f"{path}: no such checkpoint here; expected run.directory on a disk of all ranks")
        models = load_own_models(in_force, path, roles)
        trainer = new_trainer(in_force, *models, roles=roles)
        if path is not None:
            trainer.load_state_dict(checkpoint.read_for(trainer, path).trainer)
        return cls(in_force, models, trainer)

    def make(self, call: RankMessage) -> None:
        """The call that rank 0 makes at the same time."""
        if self.trainer.policy_side is not None or call.kind not in calls.OF_POLICY:
            CALLS[call.kind](self, call)

    def step(self, call: RankMessage) -> None:
        """Train on the same rows."""
        self.trainer.step(calls.rows_of(call), policy_version=call.fields["policy_version"])

    def probe(self, call: RankMessage) -> None:
        """Log-probabilities of the probe."""
        self.trainer.probe(calls.weights_of(call))

    def solution_probabilities(self, call: RankMessage) -> None:
        """Of the evaluation's prompts."""
        self.trainer.solution_probabilities(
            calls.prompts_of(call), temperature=call.fields["temperature"], weights=calls.weights_of(call)
        )

    def policy_in_memory(self, call: RankMessage) -> None:
        """This rank's rows of what generators are sent."""
        self.trainer.policy_in_memory("")

    def write(self, call: RankMessage) -> None:
        """This rank's files of a checkpoint; nothing has changed since rank 0 captured its state."""
        self.trainer.write(self.trainer.captured(), Path(call.fields["folder"]), describe_network)

    def set_temperature(self, call: RankMessage) -> None:
        """Of sampling."""
        self.trainer.set_temperature(call.fields["temperature"])

    def set_learning_rate(self, call: RankMessage) -> None:
        """Of one of the two models."""
        self.trainer.set_learning_rate(call.fields["model"], call.fields["peak"])

    def reconfigure(self, call: RankMessage) -> None:
        """Go on under other settings."""
        self.config = with_values(self.config, call.fields["values"])
        self.trainer.take_over(new_trainer(self.config, *self.models, roles=self.trainer.roles))


CALLS: Mapping[str, Callable[[Replica, RankMessage], None]] = {
    "step": Replica.step,
    "probe": Replica.probe,
    "solution_probabilities": Replica.solution_probabilities,
    "policy_in_memory": Replica.policy_in_memory,
    "write": Replica.write,
    "set_temperature": Replica.set_temperature,
    "set_learning_rate": Replica.set_learning_rate,
    "reconfigure": Replica.reconfigure,
}
