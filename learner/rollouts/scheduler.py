"""The scheduler: which rows make the next training step, and who is asked for next.

Pure, on top of the ledger. Requests go out when the run opens and when a step closes, never in between, and a step's
rows are told by inbox position; so both are a function of the inbox alone.

* streaming: the first `rollouts_per_step` ready rows make a step; a slow window waits for a later step.
* lockstep and overlapped: a step is exactly the windows that were asked for together (a cohort), so that no row is
  trained by weights further from those that sampled it than the mode allows, however many generators there are.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from learner.rollouts.ledger import Ledger, Position, Rollout, State
from learner.rollouts.prompts import Prompt, PromptOrder
from tppo.config.schema import RunSection

IN_FLIGHT = (State.REQUESTED, State.SCORING, State.READY)


@dataclass(slots=True)
class Scheduler:
    """Admission, order of requests, composition of steps."""

    ledger: Ledger
    prompts: Sequence[Prompt]
    order: PromptOrder
    run: RunSection
    next_ordinal: int = 0
    next_cohort: int = 0
    is_opened: bool = False

    def open(self, policy_version: int) -> None:
        """The first requests of a run: as many as may be out."""
        assert not self.is_opened
        self.is_opened = True
        for _ in range(self.run.policy_lag_bound + 1):
            self._request([], self.run.rollouts_per_step, policy_version)

    def next_batch(self) -> list[Rollout]:
        """The rows of the next step, in inbox order; empty while they are not all there."""
        return self._first_ready_rows() if self.run.mode == "streaming" else self._oldest_cohort()

    def close_step(self, batch: Sequence[Rollout], policy_version: int) -> None:
        """The batch was trained and made `policy_version`: ask for as many windows as have become free."""
        last_position = max(row.ready_position for row in batch)
        num_replaced = self._forget_parked(lambda position: position <= last_position)
        continuing = sorted((row for row in batch if not row.is_finished), key=lambda row: row.ordinal)
        self._request(continuing, len(batch) + num_replaced, policy_version)

    def replace_parked(self, policy_version: int) -> bool:
        """Where no further step can come because too much was parked, ask for others; whether it did."""
        needed = self.run.rollouts_per_step if self.run.mode == "streaming" else 1
        if len(self._rows_in_flight()) >= needed or not self.ledger.parked_positions:
            return False
        self._request([], self._forget_parked(lambda _: True), policy_version)
        return True

    def is_past(self, rollout_id: str) -> bool:
        """Whether this training rollout was started at some time."""
        ordinal = self.order.ordinal(rollout_id)
        return ordinal is not None and ordinal < self.next_ordinal

    def _first_ready_rows(self) -> list[Rollout]:
        size = self.run.rollouts_per_step
        return self.ledger.ready[:size] if len(self.ledger.ready) >= size else []

    def _oldest_cohort(self) -> list[Rollout]:
        cohorts: Mapping[int, list[Rollout]] = _by_cohort(self._rows_in_flight())
        rows = cohorts[min(cohorts)] if cohorts else []
        is_complete = all(row.state is State.READY for row in rows)
        return sorted(rows, key=lambda row: row.ready_position) if is_complete else []

    def _rows_in_flight(self) -> list[Rollout]:
        rollouts = self.ledger.rollouts.values()
        return [row for row in rollouts if row.state in IN_FLIGHT and not row.is_evaluation]

    def _num_wanted(self) -> int:
        """Windows that the run will still train and that nobody was asked for yet."""
        equation = self.ledger.conservation()
        planned = self.run.total_training_steps * self.run.rollouts_per_step
        return max(0, planned - equation.trained - equation.in_flight)

    def _forget_parked(self, is_due: Callable[[Position], bool]) -> int:
        """Takes the due ones off the list of parked windows that were not replaced; how many."""
        before = self.ledger.parked_positions
        self.ledger.parked_positions = [position for position in before if not is_due(position)]
        return len(before) - len(self.ledger.parked_positions)

    def _request(self, continuing: Sequence[Rollout], num_free: int, policy_version: int) -> None:
        """Oldest rollouts first, then new prompts, up to what is free and what the run still needs."""
        cohort, self.next_cohort = self.next_cohort, self.next_cohort + 1
        oldest_version = 0 if self.run.mode == "streaming" else policy_version
        for number in range(min(num_free, self._num_wanted())):
            row = continuing[number] if number < len(continuing) else self._started_rollout()
            self.ledger.request_window(row, cohort=cohort, min_policy_version=oldest_version)

    def _started_rollout(self) -> Rollout:
        index, rollout_id = self.order.at(self.next_ordinal)
        self.next_ordinal += 1
        return self.ledger.start(rollout_id, self.prompts[index], ordinal=self.next_ordinal - 1)


def _by_cohort(rows: Sequence[Rollout]) -> dict[int, list[Rollout]]:
    cohorts: dict[int, list[Rollout]] = {}
    for row in rows:
        cohorts.setdefault(row.cohort, []).append(row)
    return cohorts
