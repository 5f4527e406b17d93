"""Training rollouts by their state, and the cohorts in flight: kept with each change, so that no look scans them all.

The learner looks after every read of the inbox whether a step is full. With ten thousand rollouts in flight, a scan for
each window would take more time than the window's own bookkeeping.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from learner.rollouts.rollout import Rollout, State

UNREADY = (State.REQUESTED, State.SCORING)
IN_FLIGHT = (*UNREADY, State.READY)


@dataclass(frozen=True, slots=True)
class Conservation:
    """Windows: issued = trained + in_flight + parked + dropped, at every moment."""

    issued: int
    trained: int
    in_flight: int
    parked: int
    dropped: int

    @property
    def holds(self) -> bool:
        """Whether every issued window is accounted for."""
        return self.issued == self.trained + self.in_flight + self.parked + self.dropped


@dataclass(slots=True)
class RolloutsByState:
    """Those of evaluations are let through, and kept nowhere."""

    _rollouts: dict[State, dict[str, Rollout]] = field(default_factory=lambda: {state: {} for state in State})
    _in_flight: Counter[int] = field(default_factory=Counter)  # rows of each cohort
    _unready: Counter[int] = field(default_factory=Counter)  # of these, those that wait for a window or a score

    def add(self, rollouts: Iterable[Rollout]) -> None:
        """They are new here, in whatever state."""
        for rollout in rollouts:
            self._note(rollout)

    def move(self, rollout: Rollout, state: State) -> None:
        """Its cohort may change before this, unless it is in flight."""
        self.remove(rollout)
        rollout.state = state
        self._note(rollout)

    def remove(self, rollout: Rollout) -> None:
        """It is no longer the ledger's."""
        if not rollout.is_evaluation:
            del self._rollouts[rollout.state][rollout.rollout_id]
            self._count(rollout, -1)

    def of(self, *states: State) -> Iterator[Rollout]:
        """In no order that means something."""
        for state in states:
            yield from self._rollouts[state].values()

    def count(self, *states: State) -> int:
        """How many are in one of them."""
        return sum(len(self._rollouts[state]) for state in states)

    def oldest_cohort(self) -> list[Rollout]:
        """The rows that were requested together, in no order; empty while one of them is not ready."""
        oldest = min(self._in_flight, default=None)
        if oldest is None or oldest in self._unready:
            return []
        return [row for row in self.of(State.READY) if row.cohort == oldest]

    def _note(self, rollout: Rollout) -> None:
        if not rollout.is_evaluation:
            self._rollouts[rollout.state][rollout.rollout_id] = rollout
            self._count(rollout, 1)

    def _count(self, rollout: Rollout, number: int) -> None:
        for counter, states in ((self._in_flight, IN_FLIGHT), (self._unready, UNREADY)):
            if rollout.state in states:
                counter[rollout.cohort] += number
                if not counter[rollout.cohort]:
                    del counter[rollout.cohort]
