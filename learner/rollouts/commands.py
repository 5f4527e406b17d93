"""What operators asked for: which command is due when, by its place in the inbox, and what became of each.

    inbox -> waits -> carried out, or refused, at the close of the first step whose last row lies behind it

Pausing, resuming and checkpoints change no weights; they count at once.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from learner.rollouts.ledger import Position
from tppo.rollout import Action, Command

MAX_REMEMBERED = 1000  # commands that are told from duplicates
AT_ONCE = (Action.PAUSE, Action.RESUME, Action.CHECKPOINT)


@dataclass(slots=True)
class Answer:
    """What became of a command."""

    outcome: str = "pending"  # then done, or refused
    text: str = ""


@dataclass(slots=True)
class Commands:
    """All of a run, in the order of its inbox."""

    waiting: list[tuple[Position, Command]] = field(default_factory=list)
    answers: dict[str, tuple[Command, Answer]] = field(default_factory=dict)
    is_paused: bool = False
    wants_checkpoint: bool = False
    settings: dict[str, float] = field(default_factory=dict)  # those that were changed
    stop_after_step: int | None = None

    def enter(self, position: Position, command: Command) -> None:
        """A command has arrived; one that arrived before is a double."""
        if command.command_id in self.answers:
            return
        self.answers[command.command_id] = command, Answer()
        for old in list(self.answers)[:-MAX_REMEMBERED]:
            del self.answers[old]
        if command.action in AT_ONCE:
            self._obey(command)
        else:
            self.waiting.append((position, command))

    def due(self, last: Position) -> list[Command]:
        """Takes those that lie before the last row of a step."""
        found = [command for position, command in self.waiting if position < last]
        self.waiting = [(position, command) for position, command in self.waiting if position >= last]
        return found

    def answer(self, command: Command, outcome: str, text: str) -> None:
        """Note what became of it."""
        self.answers[command.command_id] = command, Answer(outcome, text)

    def take_checkpoint_wish(self) -> bool:
        """Whether a checkpoint was asked for since the last call."""
        wish, self.wants_checkpoint = self.wants_checkpoint, False
        return wish

    def newest(self, count: int) -> list[dict[str, Any]]:
        """What the status tells."""
        return [_told(command) | asdict(answer) for command, answer in list(self.answers.values())[-count:]]

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps, as JSON."""
        return {
            "waiting": [[list(position), command.command_id] for position, command in self.waiting],
            "answers": [_told(command) | asdict(answer) for command, answer in self.answers.values()],
            "is_paused": self.is_paused,
            "settings": self.settings,
            "stop_after_step": self.stop_after_step,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        for told in state["answers"]:
            command = Command(
                told["command_id"], Action[told["action"]], told["arguments"], told["issued_at"], told["issued_by"]
            )
            self.answers[command.command_id] = command, Answer(told["outcome"], told["text"])
        self.waiting = [((place[0], place[1]), self.answers[name][0]) for place, name in state["waiting"]]
        self.is_paused = state["is_paused"]
        self.settings.update(state["settings"])
        self.stop_after_step = state["stop_after_step"]

    def _obey(self, command: Command) -> None:
        if command.action is Action.CHECKPOINT:
            self.wants_checkpoint = True
        else:
            self.is_paused = command.action is Action.PAUSE
        self.answer(command, "done", "")


def _told(command: Command) -> dict[str, Any]:
    return asdict(command) | {"action": command.action.name, "arguments": dict(command.arguments)}
