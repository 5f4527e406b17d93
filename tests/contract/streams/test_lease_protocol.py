"""The protocol of leases and commits, explored: workers and a learner that act, freeze and die in any order.

Model: a learner puts numbered requests, reads results by position, and remembers at each commit what it has done;
when it dies it goes on from there, and finds all that it waits for in the streams. Workers lease,
renew, complete and release; a frozen one is one that is not scheduled; one that dies forgets what it held.
"""

from collections import Counter
from collections.abc import Coroutine
from typing import Any, TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.support.outstanding import outstanding
from tppo.streams import Lease, MemoryStreams
from tppo.streams.contract import BEGINNING, position_of

LEASE_SECONDS = 10.0
NUM_WORKERS = 3
Result = TypeVar("Result")
workers = st.integers(0, NUM_WORKERS - 1)


def at_once(action: Coroutine[Any, Any, Result]) -> Result:
    """The result of a coroutine that never has to wait."""
    try:
        action.send(None)
    except StopIteration as end:
        result: Result = end.value
        return result
    raise AssertionError("it waits")


class LeaseProtocol(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.streams = MemoryStreams(lease_seconds=LEASE_SECONDS, clock=lambda: self.now)
        self.views = [self.streams.reopened().window_requests for _ in range(NUM_WORKERS)]
        self.held: list[list[Lease]] = [[] for _ in range(NUM_WORKERS)]
        self.num_written: Counter[str] = Counter()  # results by queue entry
        self.num_asked = 0
        self.position, self.trained = BEGINNING, Counter[bytes]()
        self.committed = (self.position, self.trained)

    @rule(count=st.integers(1, 3), is_reply_lost=st.booleans())
    def ask(self, count: int, is_reply_lost: bool) -> None:
        payloads = [b"%d" % number for number in range(self.num_asked, self.num_asked + count)]
        self.num_asked += count
        at_once(self.streams.window_requests.put(payloads))
        if is_reply_lost:
            at_once(self.streams.window_requests.put(payloads))

    @rule(worker=workers, max_count=st.integers(1, 3))
    def lease(self, worker: int, max_count: int) -> None:
        taken = at_once(self.views[worker].lease(f"w{worker}", max_count=max_count, wait_seconds=0))
        known = {lease.entry_id for lease in self.held[worker]}
        self.held[worker] += [lease for lease in taken if lease.entry_id not in known]

    @rule(worker=workers)
    def renew(self, worker: int) -> None:
        at_once(self.views[worker].renew(f"w{worker}", self.held[worker]))

    @precondition(lambda self: any(self.held))
    @rule(worker=workers, is_reply_lost=st.booleans())
    def complete(self, worker: int, is_reply_lost: bool) -> None:
        for _ in range(1 + is_reply_lost):
            results = [(lease, lease.payload) for lease in self.held[worker][:2]]
            is_written = at_once(self.views[worker].complete(f"w{worker}", results))
            for (lease, _), is_one in zip(results, is_written, strict=True):
                self.num_written[lease.entry_id] += is_one
        del self.held[worker][:2]

    @rule(worker=workers)
    def release(self, worker: int) -> None:
        at_once(self.views[worker].release(f"w{worker}", self.held[worker]))
        self.held[worker] = []

    @rule(worker=workers)
    def worker_dies(self, worker: int) -> None:
        self.views[worker] = self.streams.reopened().window_requests
        self.held[worker] = []

    @rule(seconds=st.sampled_from([1.0, 4.0, 11.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(max_count=st.integers(1, 4))
    def read(self, max_count: int) -> None:
        for entry in at_once(self.streams.inbox.read(self.position, max_count=max_count, wait_seconds=0)):
            self.position = entry.position
            if entry.payload not in self.trained:  # duplicates are recognised by their key and dropped
                self.trained = self.trained + Counter([entry.payload])

    @rule(is_trimmed=st.booleans())
    def commit(self, is_trimmed: bool) -> None:
        self.committed = (self.position, self.trained)
        if is_trimmed:  # the learner may die between the two
            at_once(self.streams.inbox.trim(self.position))

    @rule()
    def learner_dies(self) -> None:
        """It begins again at its commit."""
        self.position, self.trained = self.committed
        held = self.held_by_streams()
        asked = {b"%d" % number for number in range(self.num_asked)}
        assert asked - held <= self.trained.keys(), "nothing was lost, so nothing has to be requested again"

    @invariant()
    def each_request_is_somewhere(self) -> None:
        held = self.held_by_streams()
        assert all(b"%d" % n in held or b"%d" % n in self.trained for n in range(self.num_asked))

    @invariant()
    def nothing_is_trained_or_written_twice(self) -> None:
        assert all(count == 1 for count in self.trained.values())
        assert all(count <= 1 for count in self.num_written.values())

    @invariant()
    def what_is_not_committed_is_still_in_the_log(self) -> None:
        entries = at_once(self.streams.inbox.read(BEGINNING, max_count=10**6, wait_seconds=0))
        in_log = {entry.payload for entry in entries if position_of(entry.position) > position_of(self.committed[0])}
        assert self.trained.keys() - self.committed[1].keys() <= in_log

    def teardown(self) -> None:
        """One worker that lives, and time: everything is trained exactly once."""
        self.now += 2 * LEASE_SECONDS
        queue = self.streams.reopened().window_requests
        while leases := at_once(queue.lease("survivor", max_count=9, wait_seconds=0)):
            at_once(queue.complete("survivor", [(lease, lease.payload) for lease in leases]))
        self.read(10**6)
        assert self.trained == Counter(b"%d" % number for number in range(self.num_asked))

    def held_by_streams(self) -> set[bytes]:
        behind = at_once(self.streams.inbox.read(self.position, max_count=10**6, wait_seconds=0))
        return {entry.payload for entry in behind} | set(at_once(outstanding(self.streams.window_requests)))


LeaseProtocol.TestCase.settings = settings(max_examples=150, stateful_step_count=40)
TestLeaseProtocol = LeaseProtocol.TestCase
