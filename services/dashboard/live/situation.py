"""What the rules of the alerts look at, and how they look at the last steps: one step's number is noise."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from statistics import mean
from typing import Literal, Protocol

from services.dashboard.history.columns import Columns

Severity = Literal["error", "warning", "notice"]
LOOK_BACK = 2_000
"""Steps that the rules look at: more would cost time, and say nothing about today."""
STREAK = 10
"""Steps in a row before a bad number counts: with 32 rows a step, one step's number is mostly noise."""


@dataclass(frozen=True)
class Alert:
    """A sentence about something that an operator should look at."""

    severity: Severity
    text: str
    since_step: int | None = None
    subject: str = ""
    """What it is about, where a rule has several alerts at once."""
    rule: str = ""

    @property
    def key(self) -> str:
        """Names the alert while it lasts, whatever numbers its text shows."""
        return f"{self.rule}:{self.subject}"


@dataclass(frozen=True, kw_only=True)
class Situation:
    """What is known besides the metrics."""

    steps: Columns
    evaluations: Columns
    run: str = "RUN"
    best_step: int | None = None
    """Of the checkpoint that did best in an evaluation."""
    is_running: bool = False
    """The learner is there and its run has not ended."""
    seconds_since_step: float | None = None
    """Or since it began, before the first step."""
    watchdog_seconds: float = 60.0
    waiting_for: str = ""
    redis_error: str = ""
    learner_gone_seconds: float | None = None
    num_parked: int = 0
    parked_cause: str = ""
    """The most frequent one."""
    num_dead_letters: int = 0
    dead_letter: str = ""
    """The newest one: the stream that held it, and the cause."""
    ledger_holds: bool = True
    errors: dict[str, str] = field(default_factory=dict)
    """Process -> its last error."""
    digests: dict[str, tuple[int, str]] = field(default_factory=dict)
    """Generator -> the version that it serves and the digest of what it loaded."""
    disproved: dict[str, tuple[bool, str]] = field(default_factory=dict)
    """Generator that computes otherwise than the learner -> whether it has a heartbeat, and how far they are apart."""
    offered_by_nobody: dict[str, str] = field(default_factory=dict)
    """Function that responses wait for and no attached process offers -> where one may attach."""
    is_paused: bool = False


class Rule(Protocol):
    """What makes alerts of one kind."""

    __name__: str

    def __call__(self, situation: Situation, /) -> Iterable[Alert]: ...


def alerts_by(rules: Iterable[Rule], situation: Situation) -> list[Alert]:
    """Of all of these rules."""
    return [replace(alert, rule=rule.__name__.strip("_")) for rule in rules for alert in rule(situation)]


def step_of(situation: Situation) -> int | None:
    step = situation.steps.latest.get("step")
    return step if isinstance(step, int) else None


def bad_since(steps: Columns, name: str, is_bad: Callable[[float], bool], *, at_least: int = STREAK) -> int | None:
    """The first step of the streak of bad numbers that still goes on; steps without the number are passed over."""
    first, length = None, 0
    pairs = zip(steps.newest("step", LOOK_BACK), steps.newest(name, LOOK_BACK), strict=True)
    for step, value in reversed([(step, value) for step, value in pairs if value is not None and step is not None]):
        if not is_bad(value):
            break
        first, length = int(step), length + 1
    return first if length >= at_least else None


def total(steps: Columns, name: str) -> float:
    return sum(value for value in steps.newest(name, STREAK) if value is not None)


def block_means(steps: Columns, name: str) -> list[tuple[int, float]]:
    """(last step, mean) of each full block of `STREAK` steps, counted back from the newest."""
    pairs = zip(steps.newest("step", LOOK_BACK), steps.newest(name, LOOK_BACK), strict=True)
    known = [(int(step), value) for step, value in pairs if value is not None and step is not None]
    ends = range(len(known), STREAK - 1, -STREAK)
    blocks = [(known[end - 1][0], mean(value for _, value in known[end - STREAK : end])) for end in ends]
    return blocks[::-1]


def noise(steps: Columns) -> float:
    """Two standard deviations of the newest block's mean, from its steps' own differences."""
    values = [value for value in steps.newest("reward/mean", STREAK) if value is not None]
    if len(values) < 2:
        return 0.0
    middle = mean(values)
    variance = sum((value - middle) ** 2 for value in values) / (len(values) - 1)
    return float(2 * (variance / len(values)) ** 0.5)
