"""What a resume changes in a run: steps, rates, evaluation, lag. Each change is a record of the inbox at its place.

    --resume with other values -> appended to the inbox -> due -> applied, after the step and the record that the
    resumed checkpoint had come to

A learner knows the changes that its inbox holds before it reads the inbox: it reads up to the place of the next one,
applies it there, and reads on. So one that crashes behind a change, and a replay, do the same in the same step.
"""

import json
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from learner.persistence.definition import CHANGEABLE, Definition, Values, differing, values_of, with_values
from learner.rollouts.commands import Commands, arguments_of
from learner.step.progress import TrainingProgress
from tppo import codec
from tppo.config import Config
from tppo.config.schema import RunSection
from tppo.rollout import Action, Command
from tppo.security.envelope import PLAIN, Records
from tppo.streams import Inbox, until_redis_answers
from tppo.streams.contract import position_of

POSITION = re.compile(r"[0-9]{1,19}-[0-9]{1,19}")
READ_COUNT = 256  # inbox entries per read


@dataclass(frozen=True, slots=True)
class Change:
    """One record: other values, from a step and a place in the inbox on."""

    command: Command
    after_step: int
    position: str  # of the inbox: everything up to here was entered before the change, nothing behind it
    values: Values

    @classmethod
    def of(cls, command: Command) -> "Change":
        """What the command says. Raises ValueError where it does not say it whole."""
        arguments = arguments_of(command)
        after_step, position, values = (arguments.get(name) for name in ("after_step", "position", "values"))
        if not (isinstance(after_step, int) and isinstance(position, str) and isinstance(values, dict)):
            raise ValueError(f"{command.command_id}: expected a step, a position and values")
        if not POSITION.fullmatch(position) or not values.keys() <= set(CHANGEABLE):
            raise ValueError(f"{command.command_id}: expected a position of the inbox and keys that may change")
        return cls(command, after_step, position, values)

    def at(self, position: str, values: Values) -> "Change":
        """The same change at this position, of these values."""
        arguments = {"after_step": self.after_step, "position": position, "values": dict(values)}
        texts = {name: json.dumps(value) for name, value in arguments.items()}
        return Change.of(replace(self.command, arguments=texts))

    def payload(self) -> bytes:
        """The record."""
        return codec.encode_inbox_record(self.command)


def a_change(name: str, values: Values, *, after_step: int, position: str) -> Change:
    """Of a resume from a checkpoint of this step and position."""
    command = Command(name, Action.RECONFIGURE, issued_at=time.time(), issued_by="--resume")
    return Change(command, after_step, position, values).at(position, values)


class Reconfiguration:
    """The configuration that is in force, and the changes that are due."""

    def __init__(
        self,
        config: Config,
        definition: Definition,
        commands: Commands,
        *,
        records: Records,
        wanted: Config | None,
        apply: Callable[[Config, Values], Awaitable[None]],
        forget_after: Callable[[int], None],
    ) -> None:
        """`config` is in force; `wanted` is to be from now on, None in a replay; `apply` changes what depends on it.

        `records`: how the inbox is read; a change counts when a learner has written it.

        `forget_after` is called before a change: steps behind that one, which a damaged checkpoint had come to, are
        taken again under other settings.
        """
        self.config = config
        self._definition = definition
        self._commands = commands
        self._records = records
        self._wanted = wanted
        self._apply = apply
        self._forget_after = forget_after
        self._due: list[Change] = []

    @property
    def run(self) -> RunSection:
        """As it is in force."""
        return self.config.run

    @property
    def held_at(self) -> str | None:
        """The position up to which the inbox may be entered before a change is applied."""
        return self._due[0].position if self._due else None

    def definition(self) -> Definition:
        """For a checkpoint."""
        return self._definition.now(self.config)

    async def begin(self, inbox: Inbox, progress: TrainingProgress, *, incarnation: int) -> None:
        """Find the changes in the inbox, and append another one when the run is to continue differently."""
        behind = progress.inbox_position
        found = await until_redis_answers(lambda: self._changes(inbox, behind), "looking for changed settings")
        self._due = self._accepted(
            change
            for name, change in found.items()
            if change.after_step >= progress.step and name not in self._commands.results
        )
        if self._wanted is None:
            return
        last: dict[str, Any] = values_of(self.config, CHANGEABLE)
        for change in self._due:
            last |= change.values
        if values := differing(last, values_of(self._wanted, CHANGEABLE)):
            self._forget_after(max([progress.step, *(change.after_step for change in self._due)]))
            own = a_change(f"resume-{incarnation}", values, after_step=progress.step, position=behind)
            await until_redis_answers(lambda: inbox.append([own.payload()]), "appending changed settings")
            self._due.append(own)

    def _accepted(self, changes: Iterable[Change]) -> list[Change]:
        """Those to values that a run can have."""
        accepted, config = [], self.config
        for change in changes:
            try:
                config = with_values(config, change.values)
            except ValueError as error:
                self._commands.finish(change.command, "refused", str(error))
            else:
                accepted.append(change)
        return accepted

    def is_due(self, step: int) -> bool:
        """Whether a change comes before the next step."""
        return bool(self._due) and self._due[0].after_step <= step

    def is_ready(self, step: int, position: str) -> bool:
        """Whether one is due, and all records before it are entered."""
        return self.is_due(step) and position_of(position) >= position_of(self._due[0].position)

    async def apply_next(self) -> str:
        """The first one; a sentence about it. The inbox is held at its place until this returns."""
        change = self._due[0]
        before, config = values_of(self.config, change.values), with_values(self.config, change.values)
        await self._apply(config, change.values)
        self.config = config
        self._due.remove(change)
        changes = (f"{key} from {before[key]!r} to {value!r}" for key, value in change.values.items())
        text = f"resumed after step {change.after_step} with {', '.join(changes)}"
        self._commands.finish(change.command, "done", text)
        return text

    async def _changes(self, inbox: Inbox, position: str) -> Mapping[str, Change]:
        """Those that the inbox holds behind the position, by name; a record that is no change is left to the reader."""
        found: dict[str, Change] = {}
        while entries := await inbox.read(position, max_count=READ_COUNT, wait_seconds=0):
            position = entries[-1].position
            for entry in entries:
                if (change := change_in(entry.payload, self._records)) is not None:
                    found.setdefault(change.command.command_id, change)
        return found


def change_in(payload: bytes, records: Records = PLAIN) -> Change | None:
    """The change that a record of the inbox is; None for any other one, a broken one too."""
    try:
        record = records.record(payload)
        return Change.of(record) if isinstance(record, Command) and record.action is Action.RECONFIGURE else None
    except ValueError:
        return None
