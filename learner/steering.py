"""Applies operators' commands at the end of a training step.

What changes weights is decided by the command's place in the inbox, so a resumed learner, and a replay, do the same in
the same step. A command that makes no sense is refused with a sentence, and changes nothing.
"""

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from learner.persistence.checkpoint import Checkpoints
from learner.rollouts.commands import arguments_of
from learner.rollouts.manager import RolloutManager
from learner.rollouts.rollout import Rollout
from learner.step.trainer import Trainer
from tppo.config import Config
from tppo.config.schema import RunSection
from tppo.parked_causes import kind_of_cause
from tppo.rollout import Action, Command

logger = logging.getLogger(__name__)

NUM_REPORTED = 20  # commands in the status
LARGEST = 1e300  # of a number that a command sets


class RefusedError(Exception):
    """The command is not applied; the text says why."""


class Steering:
    """Of one learner."""

    def __init__(self, run: RunSection, manager: RolloutManager, trainer: Trainer, checkpoints: Checkpoints) -> None:
        self._run = run
        self._manager = manager
        self._trainer = trainer
        self._checkpoints = checkpoints
        self._commands = manager.commands
        self.roll_back_to: int | None = None
        self.ends_runs = True
        self._actions: Mapping[Action, Callable[[Mapping[str, Any], int], str]] = {
            Action.STOP_AFTER_STEP: self._stop_after_step,
            Action.ROLL_BACK: self._roll_back,
            Action.RETRY_PARKED: self._retry_parked,
            Action.DROP_PARKED: self._drop_parked,
            Action.SET: self._set,
        }

    @property
    def is_paused(self) -> bool:
        """Whether no step may be taken."""
        return self._commands.is_paused

    def is_over(self, step: int) -> bool:
        """Whether the learner is to end after this training step."""
        return self.ends_runs and self._is_over(step)

    def apply_due(self, batch: Sequence[Rollout], step: int) -> list[str]:
        """Apply what is due once the batch has been trained and made `step`; a sentence for each command."""
        last = max(row.ready_position for row in batch)
        return [self._applied(command, step) for command in self._commands.due(last)]

    def restore(self, step: int) -> None:
        """Apply the settings of a checkpoint; a stop that was applied is over."""
        self._apply_settings()
        if self._is_over(step):
            self._commands.stop_after_step = None

    def reconfigure(self, config: Config, changed: Collection[str]) -> None:
        """The configuration is another one: its `changed` keys replace what was set, all other settings stay."""
        self._manager.reconfigure(config)
        self._trainer.set_temperature(config.generation.temperature)
        self._commands.settings = {key: value for key, value in self._commands.settings.items() if key not in changed}
        self._apply_settings()

    def status(self) -> dict[str, Any]:
        """For the heartbeat."""
        return {
            "paused": self.is_paused,
            "stop_after_step": self._commands.stop_after_step,
            "settings": self._commands.settings,
            "commands": self._commands.newest(NUM_REPORTED),
        }

    def _is_over(self, step: int) -> bool:
        last = self._commands.stop_after_step
        return self.roll_back_to is not None or (last is not None and step >= last)

    def _apply_settings(self) -> None:
        for key, value in self._commands.settings.items():
            self._change(key, value)

    def _applied(self, command: Command, step: int) -> str:
        try:
            text = self._actions[command.action](_arguments(command), step)
            outcome = "done"
        except RefusedError as refusal:
            outcome, text = "refused", str(refusal)
        self._commands.finish(command, outcome, text)
        sentence = f"{command.action.name} is {outcome}: {text}"
        logger.info("%s", sentence)
        return sentence

    def _stop_after_step(self, arguments: Mapping[str, Any], step: int) -> str:
        wanted = arguments.get("step", step)
        if not isinstance(wanted, int):
            raise RefusedError(f"step = {wanted!r}; expected a whole number")
        self._commands.stop_after_step = max(wanted, step)
        return f"the run stops after step {self._commands.stop_after_step}"

    def _roll_back(self, arguments: Mapping[str, Any], _step: int) -> str:
        version, kept = arguments.get("version"), self._checkpoints.folder.kept_steps()
        if version not in kept:
            raise RefusedError(f"version = {version!r}: no such checkpoint; expected one of {kept}")
        self.roll_back_to = version
        return f"the run rolls back to version {version}"

    def _retry_parked(self, arguments: Mapping[str, Any], _step: int) -> str:
        rows = self._parked(arguments)
        for row in rows:
            row.is_retry_due = True
        return f"{len(rows)} parked rollouts are requested again"

    def _drop_parked(self, arguments: Mapping[str, Any], _step: int) -> str:
        rows, reason = self._parked(arguments), str(arguments.get("reason") or "dropped by operator")
        for row in rows:
            self._manager.ledger.drop(row, reason)
        return f"{len(rows)} parked rollouts are dropped: {reason}"

    def _parked(self, arguments: Mapping[str, Any]) -> list[Rollout]:
        wanted = arguments.get("rollouts")
        if wanted is not None and not (isinstance(wanted, list) and all(isinstance(one, str) for one in wanted)):
            raise RefusedError(f"rollouts = {wanted!r}; expected a list of names")
        if (cause := arguments.get("cause")) is not None:
            return self._parked_for(cause, is_alone=wanted is None)
        rows = self._manager.ledger.parked(wanted)
        if wanted is not None and len(rows) < len(set(wanted)):
            missing = sorted(set(wanted) - {row.rollout_id for row in rows})
            raise RefusedError(f"{missing[0]} is not parked")
        return rows

    def _parked_for(self, cause: Any, *, is_alone: bool) -> list[Rollout]:
        if not isinstance(cause, str) or not is_alone:
            raise RefusedError(f"cause = {repr(cause)[:200]}; expected a text, and no list of rollouts beside it")
        rows = [row for row in self._manager.ledger.parked() if kind_of_cause(row.cause) == kind_of_cause(cause)]
        if not rows:
            raise RefusedError(f"no rollout is parked for {kind_of_cause(cause)!r}")
        return rows

    def _set(self, arguments: Mapping[str, Any], _step: int) -> str:
        key, value = str(arguments.get("key")), arguments.get("value")
        if isinstance(value, bool) or not isinstance(value, int | float) or not -LARGEST <= value <= LARGEST:
            raise RefusedError(f"{key} = {repr(value)[:200]}; expected a finite number")
        self._change(key, value)
        self._commands.settings[key] = value
        return f"{key} = {value:g}"

    def _change(self, key: str, value: float) -> None:
        if key == "run.max_policy_lag":
            self._set_policy_lag(value)
        elif not value > 0:
            raise RefusedError(f"{key} = {value:g}; expected a number above 0")
        elif key == "actor.lr":
            self._trainer.set_learning_rate("actor", value)
        elif key == "critic.lr":
            self._trainer.set_learning_rate("critic", value)
        elif key == "generation.temperature":
            self._set_temperature(value)
        else:
            expected = "actor.lr, critic.lr, generation.temperature or run.max_policy_lag"
            raise RefusedError(f"{key!r} does not change in a run; expected {expected}")

    def _set_policy_lag(self, value: float) -> None:
        if self._run.mode != "streaming":
            raise RefusedError(f"run.max_policy_lag in mode {self._run.mode}; it changes in streaming only")
        if value < 0 or value != int(value):
            raise RefusedError(f"run.max_policy_lag = {value:g}; expected a whole number, 0 or more")
        self._manager.scheduler.set_policy_lag(int(value))

    def _set_temperature(self, value: float) -> None:
        """For requests from now on; the learner's policy is the one under this temperature."""
        self._manager.ledger.set_temperature(value)
        self._trainer.set_temperature(value)


def _arguments(command: Command) -> dict[str, Any]:
    try:
        return arguments_of(command)
    except ValueError:
        raise RefusedError(f"arguments {str(dict(command.arguments))[:200]}; expected JSON values") from None
