"""What a learner starts from: a run that begins, or what a checkpoint restored."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from learner.models.passes.outputs import Policy, ValueModel
from learner.networks import Models
from learner.parallel.roles import TOGETHER, Roles
from learner.persistence import checkpoint
from learner.persistence.checkpoint import Checkpoints
from learner.persistence.definition import Definition, require_resumable
from learner.persistence.definition import read as read_definition
from learner.persistence.rollback import delete_later_notes
from learner.ranks.calls import LeadingTrainer
from learner.ranks.channel import RankMessage
from learner.ranks.team import ALONE, Team
from learner.reconfiguration import Reconfiguration
from learner.reporting.conditions import compute_deterministically
from learner.rollouts import ledger_state
from learner.rollouts.manager import RolloutManager
from learner.steering import Steering
from learner.step.estimation.estimators import Estimators
from learner.step.progress import TrainingProgress
from learner.step.trainer import Trainer
from learner.step.turns import Device, let_take_turns
from learner.systems import system_for
from tppo.config import Config
from tppo.models.device import torch_device
from tppo.run_folder.checkpoints import step_of
from tppo.streams.contract import BEGINNING

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class LearnerState:
    """Of one incarnation."""

    checkpoints: Checkpoints
    tokenizer: PreTrainedTokenizerBase
    trainer: Trainer
    manager: RolloutManager
    steering: Steering
    progress: TrainingProgress
    reconfiguration: Reconfiguration
    team: Team = ALONE


def definition_of(config: Config, latest: Path | None, data: Mapping[str, str]) -> Definition:
    """Of the run that the checkpoint is of, else of a new one. Raises `ConfigError` where `config` is of another."""
    if latest is None:
        return Definition.of(config, data)
    found = read_definition(latest)
    require_resumable(found, config, data=data, step=step_of(latest))
    return found or Definition.of(config, data)


def new_state(
    config: Config,
    definition: Definition,
    checkpoints: Checkpoints,
    tokenizer: PreTrainedTokenizerBase,
    *,
    models: Models,
    manager: RolloutManager,
    wanted: Config | None,
    team: Team = ALONE,
    roles: Roles | None = None,
) -> LearnerState:
    """Of a run that has not begun; `config` is in force, and `wanted` is to be at the first chance."""
    made_by = Trainer if team.size == 1 else partial(LeadingTrainer, team)
    trainer = new_trainer(config, *models, made_by=made_by, roles=roles)
    steering = Steering(config.run, manager, trainer, checkpoints)

    def take_over(config: Config, values: Mapping[str, Any]) -> None:
        with team.making(RankMessage("reconfigure", {"values": dict(values)})):
            trainer.take_over(new_trainer(config, *models, roles=roles))  # some copy the policy

    async def reconfigure(config: Config, values: Mapping[str, Any]) -> None:
        await asyncio.to_thread(take_over, config, values)
        steering.reconfigure(config, values)

    return LearnerState(
        checkpoints,
        tokenizer,
        trainer,
        manager,
        steering,
        TrainingProgress(step=0, inbox_position=BEGINNING, elapsed_seconds=0.0, tokens_trained=0),
        Reconfiguration(
            config,
            definition,
            manager.commands,
            records=manager.border.records,
            wanted=wanted,
            apply=reconfigure,
            forget_after=partial(delete_later_notes, checkpoints.folder),
        ),
        team,
    )


def restore(state: LearnerState, path: Path) -> None:
    """Continue from a checkpoint, whose models are loaded already."""
    restored = checkpoint.read_for(state.trainer, path)
    state.trainer.load_state_dict(restored.trainer)
    ledger_state.restore(state.manager, restored.ledger)
    state.progress = restored.progress
    state.steering.restore(restored.progress.step)
    logger.info("resumed from %s", path)


def new_trainer(
    config: Config,
    policy: Policy | None,
    value_model: ValueModel | None,
    *,
    made_by: Callable[..., Trainer] = Trainer,
    roles: Roles | None = None,
) -> Trainer:
    """The trainer of `run.algorithm`, with fresh optimizers; without a model that other processes have.

    `roles`: unset where this process's group has both.
    """
    compute_deterministically(config)
    algorithm = config.algorithm.model_copy(update={"importance_cap": config.importance_cap})
    estimators = Estimators(algorithm, config.run.window_length)
    trainer = made_by(
        policy,
        value_model,
        system_for(
            config.run.algorithm,
            policy,
            estimators,
            max_tokens_per_microbatch=config.actor.max_tokens_per_microbatch,
        ),
        estimators=estimators,
        run=config.run,
        actor=config.actor,
        critic=config.critic,
        keeps_traces=config.trace.enabled,
        roles=roles or (TOGETHER if policy is None else Roles.together(policy.group)),
    )
    if config.learner.offload_idle_model and policy is not None and value_model is not None:
        device = Device.of(torch_device(config.policy_placement))
        let_take_turns(policy, trainer.actor, value_model, trainer.critic, device=device)
    return trainer
