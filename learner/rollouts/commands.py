"""Operators' commands: which is due when, by its position in the inbox, and the result of each.

    inbox -> waiting -> applied, or refused, at the end of the first training step whose last row lies behind it

Pausing, resuming and checkpoints change no weights; they are applied at once. What a resume changes in the
configuration is applied at a place of its own (`learner.reconfiguration`), and only its result is kept here.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from learner.rollouts.rollout import Position
from tppo.rollout import Action, Command

MAX_REMEMBERED = 1000  # commands whose duplicates are recognized
AT_ONCE = (Action.PAUSE, Action.RESUME, Action.CHECKPOINT)


def arguments_of(command: Command) -> dict[str, Any]:
    """The values of its arguments. Raises ValueError for a text that is no JSON value."""
    try:
        return {name: json.loads(value) for name, value in command.arguments.items()}
    except RecursionError:
        raise ValueError("a JSON value is nested too deeply") from None


@dataclass(slots=True)
class CommandResult:
    """What became of a command."""

    outcome: str = "pending"  # then done, or refused
    text: str = ""


@dataclass(slots=True)
class Commands:
    """All commands of a run, in the order of its inbox."""

    waiting: list[tuple[Position, Command]] = field(default_factory=list)
    results: dict[str, tuple[Command, CommandResult]] = field(default_factory=dict)
    is_paused: bool = False
    is_checkpoint_requested: bool = False
    settings: dict[str, float] = field(default_factory=dict)  # those that were changed
    stop_after_step: int | None = None

    def enter(self, position: Position, command: Command) -> None:
        """A command has arrived; a duplicate is ignored."""
        if command.command_id in self.results or command.action is Action.RECONFIGURE:
            return
        self.results[command.command_id] = command, CommandResult()
        for old in list(self.results)[:-MAX_REMEMBERED]:
            del self.results[old]
        if command.action in AT_ONCE:
            self._apply_at_once(command)
        else:
            self.waiting.append((position, command))

    def due(self, last: Position) -> list[Command]:
        """Takes those that lie before the last row of a step."""
        found = [command for position, command in self.waiting if position < last]
        self.waiting = [(position, command) for position, command in self.waiting if position >= last]
        return found

    def finish(self, command: Command, outcome: str, text: str) -> None:
        """Note the command's result."""
        self.results[command.command_id] = command, CommandResult(outcome, text)

    def take_checkpoint_request(self) -> bool:
        """Whether a checkpoint was requested since the last call."""
        is_requested, self.is_checkpoint_requested = self.is_checkpoint_requested, False
        return is_requested

    def newest(self, count: int) -> list[dict[str, Any]]:
        """The last ones, for the status."""
        return [_fields(command) | asdict(result) for command, result in list(self.results.values())[-count:]]

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps, as JSON."""
        return {
            "waiting": [[list(position), command.command_id] for position, command in self.waiting],
            "results": [_fields(command) | asdict(result) for command, result in self.results.values()],
            "is_paused": self.is_paused,
            "settings": dict(self.settings),
            "stop_after_step": self.stop_after_step,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from `state`."""
        for fields in state["results"]:
            command = Command(
                fields["command_id"],
                Action[fields["action"]],
                fields["arguments"],
                fields["issued_at"],
                fields["issued_by"],
            )
            self.results[command.command_id] = command, CommandResult(fields["outcome"], fields["text"])
        self.waiting = [((place[0], place[1]), self.results[name][0]) for place, name in state["waiting"]]
        self.is_paused = state["is_paused"]
        self.settings.update(state["settings"])
        self.stop_after_step = state["stop_after_step"]

    def _apply_at_once(self, command: Command) -> None:
        if command.action is Action.CHECKPOINT:
            self.is_checkpoint_requested = True
        else:
            self.is_paused = command.action is Action.PAUSE
        self.finish(command, "done", "")


def _fields(command: Command) -> dict[str, Any]:
    return asdict(command) | {"action": command.action.name, "arguments": dict(command.arguments)}
