"""What the journal's lines come to: a rollout with its windows and its scores."""

import re
from dataclasses import dataclass, field
from typing import Any, Literal

RolloutState = Literal["requested", "ready", "scoring", "trained", "retired", "parked", "dropped"]
STATES: tuple[RolloutState, ...] = ("requested", "ready", "scoring", "trained", "retired", "parked", "dropped")
"""The states of a rollout: requested -> ready (window not the last) -> trained -> requested ...; requested -> scoring
(response ended) -> ready -> trained as its last -> retired; parked or dropped, with a cause."""
Span = tuple[int, int]
"""Policy version, and how many tokens it sampled."""
ENDED: frozenset[RolloutState] = frozenset(("retired", "dropped"))
EVALUATION_NAME = re.compile(r"eval-([0-9]{1,15})-[0-9]+(?:-[0-9]+)?")
"""The learner names the rollouts of an evaluation after the step whose weights it evaluates."""


@dataclass(slots=True)
class WindowRecord:
    """One window: requested, sampled, trained."""

    rollout: str
    window: int
    evaluation: bool = False
    requested: float | None = None  # seconds since the epoch, as all times
    version: int | None = None  # of the policy when it was requested
    start: int = 0  # response tokens before it
    generator: str = ""
    slot: int | None = None
    started: float | None = None
    ended: float | None = None
    tokens: int = 0
    versions: tuple[Span, ...] = ()  # in order
    finish: str = ""
    is_finished: bool = False
    step: int | None = None  # that trained it
    is_obsolete: bool = False  # the learner was restored to before it was requested


@dataclass(slots=True)
class ScoreRecord:
    """One attempt to score a response."""

    attempt: int
    status: str
    score: float | None
    components: dict[str, Any]
    function: str
    seconds: float | None
    error: str
    details: str
    time: float | None


@dataclass(slots=True)
class RolloutRecord:
    """One prompt and its response so far."""

    rollout: str
    prompt: int | None = None  # row in the data files
    evaluation: bool = False
    state: RolloutState = "requested"
    windows: dict[int, WindowRecord] = field(default_factory=dict)
    scores: dict[int, ScoreRecord] = field(default_factory=dict)
    score: float | None = None
    length: int = 0  # response tokens so far
    cause: str = ""
    updated_at: float = 0.0

    @property
    def newest_window(self) -> WindowRecord | None:
        """The one with the highest index."""
        return self.windows[max(self.windows)] if self.windows else None

    @property
    def sampled(self) -> WindowRecord | None:
        """The newest one that has been generated."""
        sampled = (index for index, window in self.windows.items() if window.generator)
        newest = max(sampled, default=None)
        return None if newest is None else self.windows[newest]

    @property
    def policy_versions(self) -> list[int]:
        """Of the weights that sampled its tokens."""
        return [version for window in self.windows.values() for version, _ in window.versions]

    @property
    def trained_steps(self) -> list[int]:
        """The steps that trained its windows, in order."""
        return sorted(window.step for window in self.windows.values() if window.step is not None)

    @property
    def steps(self) -> list[int]:
        """That trained its windows; of an evaluation, the step that it evaluates."""
        if not self.evaluation:
            return self.trained_steps
        named = EVALUATION_NAME.fullmatch(self.rollout)
        return [int(named[1])] if named else []

    @property
    def last_step(self) -> int | None:
        """The step that took the whole response; None before it."""
        newest = self.newest_window
        if newest is None or not newest.is_finished:
            return None
        return max(self.steps, default=None) if self.evaluation else newest.step
