"""Generators of different speed that join, die, are frozen, and hand windows over: each token is trained once.

A token is a function of its rollout and place, so that a token that is lost, duplicated or misplaced is seen.
"""

from collections.abc import Coroutine
from typing import Any, TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from learner.rollouts.requests import UnscoredResponse
from learner.rollouts.rollout import State
from tests.learner.builders import STOP_TOKEN, a_config, a_manager, a_score
from tppo import codec
from tppo.rollout import FinishReason, VersionSpan, Window, WindowRequest, logprobs, tokens
from tppo.streams import Lease, MemoryStreams
from tppo.streams.contract import BEGINNING, position_of

T = TypeVar("T")
CHOICE = st.integers(0, 10**6)
LEASE_SECONDS = 10.0
RUN = {"window_length": 4, "max_response_length": 10, "rollouts_per_step": 2, "total_training_steps": 1000}
NUM_IGNORED = 1
NAMES = ("fast", "slow", "spot")


def now(work: Coroutine[Any, Any, T]) -> T:
    """The result of what never waits."""
    try:
        work.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    raise AssertionError("it waits")


def token_at(rollout_id: str, place: int) -> int:
    """Of the response that the policy would give; some end early."""
    seed = sum(map(ord, rollout_id))
    return STOP_TOKEN if place == 3 + seed % 11 else 10 + (7 * seed + place) % 80


def window_of(request: WindowRequest, num_tokens: int, *, is_cut: bool) -> Window:
    begin = len(request.response_tokens)
    found = [token_at(request.rollout_id, begin + place) for place in range(num_tokens)]
    stops = STOP_TOKEN in found
    if stops:
        found = found[: found.index(STOP_TOKEN) + 1]
    reason = FinishReason.STOP if stops else FinishReason.CUT if is_cut else FinishReason.LENGTH
    spans = (VersionSpan(0, len(found)),)
    return Window(
        request.rollout_id,
        request.window_index,
        tokens(found),
        logprobs([-1.0] * len(found)),
        spans,
        reason,
        is_evaluation=request.is_evaluation,
    )


class FleetMachine(RuleBasedStateMachine):
    """A learner's ledger, the queue with a clock of its own, and generators."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = 0.0
        self.streams = MemoryStreams(lease_seconds=LEASE_SECONDS, clock=lambda: self.clock)
        self.held: dict[str, list[Lease]] = {}
        self.position = BEGINNING
        self.trained: dict[str, list[int]] = {}
        self.finished: set[str] = set()
        self.version = 0
        config = a_config(run={**RUN, "mode": "streaming", "max_policy_lag": 1})
        self.manager = a_manager(config, num_prompts=6, num_evaluation_prompts=2)

    @initialize()
    def open(self) -> None:
        self.manager.scheduler.open(0)
        self.manager.evaluator.start(0, min_policy_version=0)
        self._send()

    @rule(name=st.sampled_from(NAMES), count=st.integers(1, 3))
    def lease(self, name: str, count: int) -> None:
        held = self.held.setdefault(name, [])
        known = {lease.entry_id for lease in held}
        found = now(self.streams.window_requests.lease(name, max_count=count, wait_seconds=0))
        held += [lease for lease in found if lease.entry_id not in known]

    @precondition(lambda self: any(self.held.values()))
    @rule(choice=CHOICE)
    def complete(self, choice: int) -> None:
        name, lease, request = self._take(choice)
        self._post(name, lease, window_of(request, request.max_new_tokens, is_cut=False))

    @precondition(lambda self: any(self.held.values()))
    @rule(choice=CHOICE, num_tokens=st.integers(0, 3))
    def hand_over(self, choice: int, num_tokens: int) -> None:
        """One window that takes too long: posted short with more tokens than the ignored tail, else released."""
        self._hand_over(*self._take(choice), num_tokens)

    @precondition(lambda self: any(self.held.values()))
    @rule(choice=CHOICE, num_tokens=st.integers(0, 3))
    def leave_with_notice(self, choice: int, num_tokens: int) -> None:
        name = self._names()[choice % len(self._names())]
        for lease in self.held.pop(name):
            self._hand_over(name, lease, codec.decode_window_request(lease.payload), num_tokens)

    @precondition(lambda self: any(self.held.values()))
    @rule(choice=CHOICE)
    def die(self, choice: int) -> None:
        """Its leases expire."""
        self.held.pop(self._names()[choice % len(self._names())])

    @rule()
    def time_passes(self) -> None:
        """Who has not renewed in time is late: what it posts is refused once another has leased it."""
        self.clock += LEASE_SECONDS

    @rule(num_entries=st.integers(1, 4))
    def read(self, num_entries: int) -> None:
        for entry in now(self.streams.inbox.read(self.position, max_count=num_entries, wait_seconds=0)):
            self.manager.enter(position_of(entry.position), self.manager.border.admit(entry.payload))
            self.position = entry.position
        self._send()
        self._step()

    @invariant()
    def every_window_is_accounted_for_and_every_token_is_where_it_belongs(self) -> None:
        assert self.manager.ledger.conservation().holds
        for rollout in self.manager.ledger.rollouts.values():
            expected = [token_at(rollout.rollout_id, place) for place in range(len(rollout.response_tokens))]
            assert list(rollout.response_tokens) == expected
            assert rollout.num_stalls == 0

    def teardown(self) -> None:
        """Undisturbed, all that was begun comes to its end."""
        before = len(self.finished)
        self.held.clear()
        for _ in range(12):
            self.clock += LEASE_SECONDS
            self.lease("fast", 100)
            while any(self.held.values()):
                self.complete(0)
            self.read(100)
        if self.version:
            assert len(self.finished) > before

    def _names(self) -> list[str]:
        return sorted(name for name, leases in self.held.items() if leases)

    def _take(self, choice: int) -> tuple[str, Lease, WindowRequest]:
        name = self._names()[choice % len(self._names())]
        lease = self.held[name].pop(choice % len(self.held[name]))
        return name, lease, codec.decode_window_request(lease.payload)

    def _hand_over(self, name: str, lease: Lease, request: WindowRequest, num_tokens: int) -> None:
        num_tokens = min(num_tokens, request.max_new_tokens)
        if num_tokens > (0 if request.is_evaluation else NUM_IGNORED):
            self._post(name, lease, window_of(request, num_tokens, is_cut=num_tokens < request.max_new_tokens))
        else:
            now(self.streams.window_requests.release(name, [lease]))

    def _post(self, name: str, lease: Lease, window: Window) -> None:
        now(self.streams.window_requests.complete(name, [(lease, codec.encode_inbox_record(window))]))

    def _send(self) -> None:
        """Window requests go to the queue; a score comes at once."""
        ledger = self.manager.ledger
        while ledger.outbox:
            requests, ledger.outbox = ledger.outbox, []
            windows = [codec.encode_window_request(one) for one in requests if isinstance(one, WindowRequest)]
            now(self.streams.window_requests.put(windows))
            scores = [a_score(one.rollout_id) for one in requests if isinstance(one, UnscoredResponse)]
            now(self.streams.inbox.append([codec.encode_inbox_record(score) for score in scores]))
        self.manager.evaluator.gather()

    def _step(self) -> None:
        while batch := self.manager.scheduler.next_batch(self.version):
            self.manager.ledger.take(batch)
            for row in batch:
                assert row.state is State.READY
                before = self.trained.setdefault(row.rollout_id, [])
                assert row.window_start == len(before)
                before += row.window_tokens
                assert row.rollout_id not in self.finished
                if row.is_finished:
                    self.finished.add(row.rollout_id)
                self.manager.ledger.mark_trained(row, logprobs([0.0] * len(row.window_tokens)))
            self.version += 1
            self.manager.scheduler.close_step(batch, self.version)
            self._send()
        for name, found in self.trained.items():
            assert found == [token_at(name, place) for place in range(len(found))]


FleetMachine.TestCase.settings = settings(max_examples=30, stateful_step_count=40, deadline=None)
TestFleet = FleetMachine.TestCase
