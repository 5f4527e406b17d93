"""The scheduler: which rows make the next training step, and which windows are requested next.

Pure, on top of the ledger. Requests go out when the run begins, at the end of a training step, and when so much is
parked that no step can come; a step's rows, and what counts as parked by then, are decided by inbox position. So both
are a function of the inbox alone, however fast it is read. Only a configuration that was raised before the run was
resumed, to more steps or a larger lag, makes requests of its own.

* streaming: the first `rollouts_per_step` ready rows make a step; a slow window waits for a later step. The first
  `num_cohort_steps`, while the value model warms up, take cohorts: those that are ready first are the short ones, and
  a value model that has seen no others takes length for failure, or for success.
* lockstep and overlapped: a step is exactly the windows that were requested together (a cohort), so that no row is
  trained by weights further from those that sampled it than the mode allows, however many generators there are. Its
  rows stand in the order of their prompts, so that undisturbed lockstep runs of one seed are the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from learner.rollouts.by_state import IN_FLIGHT
from learner.rollouts.ledger import Ledger
from learner.rollouts.prompts import Prompt, PromptOrder
from learner.rollouts.rollout import Rollout, State
from tppo.config.schema import RunSection


@dataclass(slots=True)
class Scheduler:
    """Admission, order of requests, composition of steps."""

    ledger: Ledger
    prompts: Sequence[Prompt]
    order: PromptOrder
    run: RunSection
    num_cohort_steps: int = 0
    next_ordinal: int = 0
    next_cohort: int = 0
    is_opened: bool = False

    def is_supplied(self) -> bool:
        """Whether so many rows are ready as a step takes."""
        return len(self.ledger.ready) >= self.run.rollouts_per_step

    def open(self, policy_version: int) -> None:
        """The first requests of a run: as many as may be out."""
        assert not self.is_opened
        self.is_opened = True
        self.refill(policy_version)

    def refill(self, policy_version: int) -> None:
        """Request as many windows as may be out. A resumed run lacks some where its configuration was raised."""
        self._request(self.run.max_windows_out - self._num_out(), policy_version)

    def next_batch(self, policy_version: int) -> list[Rollout]:
        """The rows of the step that trains `policy_version`, empty while they are not all there.

        A cohort stands in the order of its prompts, so that which row came first makes no difference; others in inbox
        order.
        """
        return self._oldest_cohort() if self._takes_cohort(policy_version) else self._first_ready_rows()

    def close_step(self, batch: Sequence[Rollout], policy_version: int) -> None:
        """The batch was trained and made `policy_version`: request as many windows as have become free."""
        self._forget_lost(batch, takes_cohort=self._takes_cohort(policy_version - 1))
        self.refill(policy_version)

    def set_policy_lag(self, max_policy_lag: int) -> None:
        """Admit more, or fewer, from the end of the next step on. In streaming only: the other modes fix it."""
        assert self.run.mode == "streaming"
        self.run = self.run.model_copy(update={"max_policy_lag": max_policy_lag})

    def replace_parked(self, policy_version: int) -> bool:
        """Where no further step can come because too much was parked, request others; whether it did.

        Only for what was parked up to the moment at which the last possible step was lost: a learner that reads
        slowly knows of no more at that moment.
        """
        lost = self.ledger.lost
        smallest_batch = 1 if self._takes_cohort(policy_version) else self.run.rollouts_per_step
        num_lost = self._num_out() - smallest_batch + 1
        if not 0 < num_lost <= len(lost):
            return False
        self.ledger.lost = lost[num_lost:]
        self._request(num_lost, policy_version)
        return True

    def is_past(self, rollout_id: str) -> bool:
        """Whether this training rollout was ever started."""
        ordinal = self.order.ordinal(rollout_id)
        return ordinal is not None and ordinal < self.next_ordinal

    def _takes_cohort(self, policy_version: int) -> bool:
        """Whether the step that trains this version takes the windows that were requested together."""
        return self.run.mode != "streaming" or policy_version < self.num_cohort_steps

    def _first_ready_rows(self) -> list[Rollout]:
        return self.ledger.ready[: self.run.rollouts_per_step] if self.is_supplied() else []

    def _oldest_cohort(self) -> list[Rollout]:
        return sorted(self.ledger.by_state.oldest_cohort(), key=lambda row: row.ordinal)

    def _forget_lost(self, batch: Sequence[Rollout], *, takes_cohort: bool) -> None:
        """Takes off the list of parked windows those that the end of this step replaces.

        Of a cohort: what was lost of it, or of an older one that came to nothing, so that a new cohort is as large as
        the one that it follows. Else: what was lost before the batch's last row came.
        """
        if takes_cohort:
            self.ledger.lost = [lost for lost in self.ledger.lost if lost.cohort > batch[0].cohort]
        else:
            last = max(row.ready_position for row in batch)
            self.ledger.lost = [lost for lost in self.ledger.lost if lost.position > last]

    def _num_out(self) -> int:
        """Windows requested that were neither trained nor, when parked, replaced."""
        return self.ledger.by_state.count(*IN_FLIGHT) + len(self.ledger.lost)

    def _num_wanted(self, policy_version: int) -> int:
        """Windows that the steps to come need and that were not requested yet."""
        num_steps = self.run.total_training_steps - policy_version
        return max(0, num_steps * self.run.rollouts_per_step - self._num_out())

    def _request(self, num_free: int, policy_version: int) -> None:
        """Oldest rollouts first, those to be retried among them, then new prompts: up to what is free and still needed.

        Every `rollouts_per_step` of them are a cohort; so no more than policy_lag_bound + 1 cohorts are ever out.
        """
        oldest_version = 0 if self.run.mode == "streaming" else policy_version
        retried = [row for row in self.ledger.parked() if row.is_retry_due]
        continuing = iter(sorted([*self.ledger.by_state.of(State.TRAINED), *retried], key=lambda row: row.ordinal))
        for number in range(min(num_free, self._num_wanted(policy_version))):
            if number % self.run.rollouts_per_step == 0:
                self.next_cohort += 1
            row = next(continuing, None) or self._started_rollout()
            if row.is_finished:
                self.ledger.request_score_again(row, cohort=self.next_cohort - 1)
            else:
                self.ledger.request_window(row, cohort=self.next_cohort - 1, min_policy_version=oldest_version)

    def _started_rollout(self) -> Rollout:
        index, rollout_id = self.order.at(self.next_ordinal)
        self.next_ordinal += 1
        return self.ledger.start(rollout_id, self.prompts[index], ordinal=self.next_ordinal - 1)
