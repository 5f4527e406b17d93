"""Requests that vanish from Redis are noticed and resent; those under way are left alone."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from learner.exchange import reconciliation
from learner.exchange.reconciliation import PAGE_SIZE, Reconciliation
from learner.exchange.request_sender import RequestSender
from learner.rollouts.border import Border, RejectedError
from tests.learner.builders import a_ledger, a_requested_rollout, a_score, a_window
from tests.support.outstanding import outstanding
from tppo import codec
from tppo.rollout import Score, Window
from tppo.streams import MemoryStreams
from tppo.streams.contract import BEGINNING, position_of


class Run:
    """A ledger with two windows and one score out, all of them sent."""

    def __init__(self) -> None:
        self.streams = MemoryStreams(lease_seconds=60)
        self.ledger = a_ledger()
        self.position = BEGINNING
        self.outbox = RequestSender(self.streams, self.ledger)
        self.reconciliation = self.reconciled_by(self.outbox)
        for name in ("a", "b", "scoring"):
            a_requested_rollout(self.ledger, name)
        self.ledger.add_window((1, 0), a_window("scoring", stops=True))
        del self.ledger.outbox[2]  # the request for the window that came

    def reconciled_by(self, sender: RequestSender) -> Reconciliation:
        return Reconciliation(self.streams, self.ledger, sender, lambda: self.position, Border())

    async def read(self) -> None:
        """The inbox, into the ledger."""
        for entry in await self.streams.inbox.read(self.position, max_count=99, wait_seconds=0):
            self.position = entry.position
            try:
                record = Border().admit(entry.payload)
            except RejectedError:
                continue
            enter = self.ledger.add_window if isinstance(record, Window) else self.ledger.add_score
            enter(position_of(entry.position), record)  # type: ignore[arg-type]

    async def requests(self) -> list[str]:
        """Whose requests are in the queues."""
        windows = await outstanding(self.streams.window_requests)
        rewards = await outstanding(self.streams.reward_requests)
        return [codec.decode_window_request(payload).rollout_id for payload in windows] + [
            codec.decode_reward_request(payload).rollout_id for payload in rewards
        ]

    async def answer(self, record: Window | Score) -> None:
        queue = self.streams.window_requests if isinstance(record, Window) else self.streams.reward_requests
        for lease in await queue.lease("worker", max_count=9, wait_seconds=0):
            if record.rollout_id.encode() in lease.payload:
                await queue.complete("worker", [(lease, codec.encode_inbox_record(record))])
            else:
                await queue.release("worker", [lease])

    async def lose_all_requests(self) -> None:
        """As a server that came back empty."""
        for queue in (self.streams.window_requests, self.streams.reward_requests):
            leases = await queue.lease("thief", max_count=9, wait_seconds=0)
            await queue.complete("thief", [(lease, b"") for lease in leases])
        await self.streams.inbox.trim(f"{10**9}-0")


@asynccontextmanager
async def sent(run: Run) -> AsyncIterator[None]:
    """With the outbox at work, and everything in the queues."""
    serving = asyncio.create_task(run.outbox.serve())
    run.outbox.flush()
    while run.outbox.unsent():  # noqa: ASYNC110  nothing announces it
        await asyncio.sleep(0)
    yield
    serving.cancel()


@pytest.fixture
def run() -> Run:
    return Run()


async def test_nothing_is_resent_while_it_waits_or_is_worked_on(run: Run) -> None:
    async with sent(run):
        await run.streams.window_requests.lease("worker", max_count=1, wait_seconds=0)

        assert await run.reconciliation.look() == 0


async def test_what_is_answered_in_the_inbox_is_not_resent_before_it_is_read(run: Run) -> None:
    async with sent(run):
        await run.answer(a_window("a"))
        await run.answer(a_score("scoring"))
        look = asyncio.create_task(run.reconciliation.look())
        await asyncio.sleep(0.01)
        assert not look.done(), "it waits until the ledger has what the inbox holds"

        await run.read()

        assert await look == 0


async def test_a_look_waits_for_an_inbox_that_is_not_read_no_longer_than_to_the_next_look(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconciliation, "LOOK_SECONDS", 0.0)
    async with sent(run):
        await run.answer(a_window("a"))
        await run.lose_all_requests()
        await run.streams.inbox.append([b"held back"])

        assert await run.reconciliation.look() == 0
        await run.read()
        assert await run.reconciliation.look() == 3


async def test_vanished_requests_are_resent_and_counted(run: Run) -> None:
    async with sent(run):
        await run.lose_all_requests()

        assert await run.reconciliation.look() == 3
        while run.outbox.unsent():  # noqa: ASYNC110
            await asyncio.sleep(0)

        assert await run.requests() == ["a", "b", "scoring"]
        assert run.ledger.num_resent_requests == 3
        assert await run.reconciliation.look() == 0


async def test_what_is_not_sent_yet_has_not_vanished(run: Run) -> None:
    run.outbox.flush()

    assert await run.reconciliation.look() == 0


async def test_what_arrives_during_the_look_is_not_resent(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async with sent(run):
        await run.lose_all_requests()
        remaining = run.streams.window_requests.remaining

        async def and_meanwhile(entry_ids: Sequence[str]) -> set[str]:
            run.ledger.add_window((2, 0), a_window("a"))
            return await remaining(entry_ids)

        monkeypatch.setattr(run.streams.window_requests, "remaining", and_meanwhile)

        assert await run.reconciliation.look() == 2


async def test_what_is_resent_for_another_reason_during_the_look_is_not_resent_by_it(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with sent(run):
        await run.lose_all_requests()
        last = run.streams.inbox.last

        async def and_meanwhile() -> str:
            run.ledger.reject((2, 0), ("WindowRequest", "a", 0), "its answer was no window")
            run.ledger.reject((3, 0), ("WindowRequest", "b", 0), "its answer was no window")
            run.outbox.flush()
            while run.outbox.unsent():  # noqa: ASYNC110
                await asyncio.sleep(0)
            return await last()

        monkeypatch.setattr(run.streams.inbox, "last", and_meanwhile)

        assert await run.reconciliation.look() == 1
        while run.outbox.unsent():  # noqa: ASYNC110
            await asyncio.sleep(0)
        assert await run.requests() == ["a", "b", "scoring"]


async def test_a_look_reads_ids_in_pages_and_no_payload(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run()
    for number in range(2 * PAGE_SIZE):
        a_requested_rollout(run.ledger, str(number))
    pages: list[Sequence[str]] = []
    remaining = run.streams.window_requests.remaining

    async def noted(entry_ids: Sequence[str]) -> set[str]:
        pages.append(entry_ids)
        return await remaining(entry_ids)

    async def never(*_: object, **__: object) -> None:
        raise AssertionError("payloads were read")

    async with sent(run):
        monkeypatch.setattr(run.streams.window_requests, "remaining", noted)
        for of_streams in (run.streams.window_requests, run.streams.reward_requests):
            monkeypatch.setattr(of_streams, "outstanding", never)
        monkeypatch.setattr(run.streams.inbox, "read", never)

        assert await run.reconciliation.look() == 0

    assert [len(page) for page in pages] == [PAGE_SIZE - 1, PAGE_SIZE, 3]  # one rollout waits for its score


async def test_a_restarted_learner_requests_only_what_the_streams_do_not_hold(run: Run) -> None:
    async with sent(run):
        await run.answer(a_window("a"))
    restarted = RequestSender(run.streams, run.ledger)
    again = run.reconciled_by(restarted)
    await again.begin()

    restarted.flush()

    assert restarted.unsent() == set()
    assert await run.requests() == ["b", "scoring"]
    await run.read()
    assert await again.look() == 0, "it knows those that it has not sent itself"


async def test_poison_in_queues_and_inbox_holds_no_request(run: Run) -> None:
    async with sent(run):
        await run.lose_all_requests()
        await add_poison(run)
        await run.read()

        assert await run.reconciliation.look() == 3


async def test_poison_holds_no_request_of_a_restarted_learner(run: Run) -> None:
    await add_poison(run)
    restarted = RequestSender(run.streams, run.ledger)

    await run.reconciled_by(restarted).begin()

    assert {rollout_id for _, rollout_id, _ in restarted.unsent()} == {"a", "b", "scoring"}


async def add_poison(run: Run) -> None:
    """To both queues and the inbox."""
    poison = b"\xff\x00\x9a\x12\x03\xfe\x77\x81\x04\xd5"
    await run.streams.window_requests.put([poison])
    await run.streams.reward_requests.put([poison])
    await run.streams.inbox.append([poison])
