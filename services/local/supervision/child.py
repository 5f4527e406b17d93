"""One process of a run, and how a run ends."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from tppo.run_folder.ending import EndingKind

REFUSED_EXIT_CODE = 2
GAVE_UP_EXIT_CODE = 3
"""The process cannot go on, and no restart mends it; the last line of its log says why."""


class ChildState(Enum):
    """Where a child stands; the values are shown to the user."""

    WAITING = "waiting to start"
    RUNNING = "running"
    BACKING_OFF = "crashed, restarting"
    STOPPING = "stopping"
    ENDED = "ended"


@dataclass(frozen=True, kw_only=True)
class Child:
    """One process to keep alive."""

    name: str
    command: Callable[[int], Sequence[str]]
    """The command line, given how often the child was started before."""
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Beside what all children get: its secrets, which a command line would show to every user of the machine."""
    inherited: Sequence[int] = ()
    """File descriptors that it shares with this process."""
    is_done: Callable[[], bool] = lambda: False
    """Whether the run's work is done when the child exits with 0. A child that is not done is restarted."""
    stop_rank: int = 0
    """Children of a lower rank have exited before those of a higher rank get SIGTERM."""
    grace_seconds: float = 10.0
    """Time between SIGTERM and SIGKILL."""
    is_needed: bool = True
    """Whether the run ends when the child fails too often in a row; if not, it is restarted without limit."""
    group: str = ""
    """Children of one group do the same work: where one gives up, the run goes on as long as there is another."""


@dataclass(frozen=True)
class Ending:
    """Why the run ended, and a sentence about it for the user."""

    kind: EndingKind
    message: str = ""

    @property
    def exit_code(self) -> int:
        """Of `tppo run`; a run that the user stopped ends like any program on Ctrl-C."""
        return EXIT_CODES[self.kind]


EXIT_CODES = {
    EndingKind.FINISHED: 0,
    EndingKind.GAVE_UP: 1,
    EndingKind.REFUSED: REFUSED_EXIT_CODE,
    EndingKind.INTERRUPTED: 130,
}
