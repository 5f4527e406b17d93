"""Whatever happens in whatever order: every window is accounted for, and no rollout is lost or duplicated."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from learner.rollouts.by_state import IN_FLIGHT
from learner.rollouts.rollout import Rollout, State
from tests.learner.builders import a_failed_score, a_failed_window, a_ledger, a_prompt, a_score, a_window, ending
from tppo.rollout import FinishReason, InboxRecord, Score, Window, logprobs

CHOICE = st.integers(0, 10**6)


class LedgerMachine(RuleBasedStateMachine):
    """A ledger and those who answer it, with each answer kept so that it can come again."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = a_ledger(window_length=2, max_response_length=5, max_score_attempts=2)
        self.ledger.is_past = lambda rollout_id: rollout_id in self.started
        self.started: set[str] = set()
        self.retired: dict[str, int] = {}  # with the number of trained tokens
        self.trained_tokens: dict[str, int] = {}
        self.records: list[InboxRecord] = []
        self.num_records = 0

    @rule()
    def start(self) -> None:
        name = f"r{len(self.started)}"
        rollout = self.ledger.start(name, a_prompt(), ordinal=len(self.started))
        self.started.add(name)
        self.ledger.request_window(rollout, cohort=0, min_policy_version=0)

    @precondition(lambda self: self._names(State.REQUESTED))
    @rule(choice=CHOICE, num_tokens=st.integers(0, 2), stops=st.booleans())
    def window(self, choice: int, num_tokens: int, stops: bool) -> None:
        rollout = self._pick(State.REQUESTED, choice)
        left = 5 - len(rollout.response_tokens)
        stops = stops and num_tokens > 0
        self._arrive(a_window(rollout.rollout_id, rollout.window_index, num_tokens=min(num_tokens, left), stops=stops))

    @precondition(lambda self: self._names(State.REQUESTED))
    @rule(choice=CHOICE, reason=st.sampled_from([FinishReason.CUT, FinishReason.TOOL]), is_sampled=st.booleans())
    def short_window(self, choice: int, reason: FinishReason, is_sampled: bool) -> None:
        rollout = self._pick(State.REQUESTED, choice)
        window = a_window(rollout.rollout_id, rollout.window_index, num_tokens=1)
        self._arrive(ending(window, reason, not_sampled=() if is_sampled else [0]))

    @precondition(lambda self: self._names(State.REQUESTED))
    @rule(choice=CHOICE)
    def failed_window(self, choice: int) -> None:
        rollout = self._pick(State.REQUESTED, choice)
        self._arrive(a_failed_window(rollout.rollout_id, rollout.window_index))

    @precondition(lambda self: self._names(State.SCORING))
    @rule(choice=CHOICE, succeeds=st.booleans())
    def score(self, choice: int, succeeds: bool) -> None:
        rollout = self._pick(State.SCORING, choice)
        make = a_score if succeeds else a_failed_score
        self._arrive(make(rollout.rollout_id, attempt=rollout.attempt))

    @precondition(lambda self: self.records)
    @rule(choice=CHOICE)
    def duplicate(self, choice: int) -> None:
        before = self.ledger.conservation(), sum(self.ledger.duplicates.values())
        self._enter(self.records[choice % len(self.records)])
        assert (self.ledger.conservation(), sum(self.ledger.duplicates.values())) == (before[0], before[1] + 1)

    @precondition(lambda self: self.ledger.ready)
    @rule(size=st.integers(1, 4))
    def step(self, size: int) -> None:
        batch = self.ledger.ready[:size]
        self.ledger.take(batch)
        for row in batch:
            name, num_tokens = row.rollout_id, len(row.window_tokens)
            self.trained_tokens[name] = self.trained_tokens.get(name, 0) + num_tokens
            self.ledger.mark_trained(row, logprobs([0.0] * num_tokens))
            assert self.trained_tokens[name] == len(row.response_tokens) == len(row.values) == len(row.is_sampled())
            if row.is_finished:
                assert row.score is not None
                assert name not in self.retired
                self.retired[name] = num_tokens

    @precondition(lambda self: self._names(State.PARKED))
    @rule(choice=CHOICE)
    def drop(self, choice: int) -> None:
        rollout = self._pick(State.PARKED, choice)
        self.ledger.drop(rollout, "no use")
        self.retired[rollout.rollout_id] = 0

    @precondition(lambda self: any(row.is_finished for row in self.ledger.parked()))
    @rule(choice=CHOICE)
    def retry_score(self, choice: int) -> None:
        rows = [row for row in self.ledger.parked() if row.is_finished]
        row = rows[choice % len(rows)]
        row.is_retry_due = True
        self.ledger.request_score_again(row, cohort=0)

    @precondition(lambda self: any(not row.is_finished for row in self.ledger.parked()))
    @rule(choice=CHOICE)
    def retry_window(self, choice: int) -> None:
        rows = [row for row in self.ledger.parked() if not row.is_finished]
        row = rows[choice % len(rows)]
        row.is_retry_due = True
        self.ledger.request_window(row, cohort=0, min_policy_version=0)

    @precondition(lambda self: self._names(State.TRAINED))
    @rule(choice=CHOICE)
    def go_on(self, choice: int) -> None:
        self.ledger.request_window(self._pick(State.TRAINED, choice), cohort=0, min_policy_version=0)

    @invariant()
    def every_window_is_accounted_for(self) -> None:
        assert self.ledger.conservation().holds

    @invariant()
    def no_rollout_is_lost_or_duplicated(self) -> None:
        assert self.ledger.rollouts.keys() | self.retired.keys() == self.started
        assert not self.ledger.rollouts.keys() & self.retired.keys()

    @invariant()
    def ready_rows_are_those_in_state_ready_in_order(self) -> None:
        assert {row.rollout_id for row in self.ledger.ready} == set(self._names(State.READY))
        positions = [row.ready_position for row in self.ledger.ready]
        assert positions == sorted(set(positions))

    @invariant()
    def what_is_kept_by_state_and_cohort_is_what_a_scan_finds(self) -> None:
        rollouts = self.ledger.rollouts.values()
        for state in State:
            assert {row.rollout_id for row in self.ledger.by_state.of(state)} == set(self._names(state))
        in_flight = [row for row in rollouts if row.state in IN_FLIGHT]
        is_complete = all(row.state is State.READY for row in in_flight)  # all are of one cohort
        assert {row.rollout_id for row in self.ledger.by_state.oldest_cohort()} == (
            {row.rollout_id for row in in_flight} if is_complete else set()
        )

    def _names(self, state: State) -> list[str]:
        return [name for name, rollout in self.ledger.rollouts.items() if rollout.state is state]

    def _pick(self, state: State, choice: int) -> Rollout:
        names = self._names(state)
        return self.ledger.rollouts[names[choice % len(names)]]

    def _arrive(self, record: InboxRecord) -> None:
        self.records.append(record)
        self._enter(record)

    def _enter(self, record: InboxRecord) -> None:
        self.num_records += 1
        position = (1, self.num_records)
        if isinstance(record, Window):
            self.ledger.add_window(position, record)
        elif isinstance(record, Score):
            self.ledger.add_score(position, record)


LedgerMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestConservation = LedgerMachine.TestCase
