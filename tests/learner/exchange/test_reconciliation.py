"""Requests that vanish from Redis are noticed and resent; those under way are left alone."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from learner.exchange.reconciliation import Reconciliation
from learner.exchange.request_sender import RequestSender
from learner.rollouts.border import Border
from tests.learner.builders import a_ledger, a_requested_rollout, a_score, a_window
from tppo import codec
from tppo.rollout import Score, Window
from tppo.streams import MemoryStreams
from tppo.streams.contract import BEGINNING


class Run:
    """A ledger with two windows and one score out, all of them sent."""

    def __init__(self) -> None:
        self.streams = MemoryStreams(lease_seconds=60)
        self.ledger = a_ledger()
        self.outbox = RequestSender(self.streams, self.ledger)
        self.reconciliation = Reconciliation(self.streams, self.ledger, self.outbox, lambda: BEGINNING, Border())
        for name in ("a", "b", "scoring"):
            a_requested_rollout(self.ledger, name)
        self.ledger.add_window((1, 0), a_window("scoring", stops=True))
        del self.ledger.outbox[2]  # the request for the window that came

    async def requests(self) -> list[str]:
        """Whose requests are in the queues."""
        windows = await self.streams.window_requests.outstanding()
        rewards = await self.streams.reward_requests.outstanding()
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

        assert await run.reconciliation.look() == 0


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


async def test_what_arrives_during_the_look_is_not_resent(run: Run) -> None:
    async with sent(run):
        await run.lose_all_requests()
        outstanding = run.streams.window_requests.outstanding

        async def and_meanwhile() -> list[bytes]:
            run.ledger.add_window((2, 0), a_window("a"))
            return await outstanding()

        run.streams.window_requests.outstanding = and_meanwhile  # type: ignore[method-assign]

        assert await run.reconciliation.look() == 2


async def test_a_restarted_learner_requests_only_what_the_streams_do_not_hold(run: Run) -> None:
    async with sent(run):
        await run.answer(a_window("a"))
    restarted = RequestSender(run.streams, run.ledger)
    await Reconciliation(run.streams, run.ledger, restarted, lambda: BEGINNING, Border()).begin()

    restarted.flush()

    assert restarted.unsent() == set()
    assert await run.requests() == ["b", "scoring"]


async def test_poison_in_queues_and_inbox_holds_no_request(run: Run) -> None:
    poison = b"\xff\x00\x9a\x12\x03\xfe\x77\x81\x04\xd5"
    async with sent(run):
        await run.lose_all_requests()
        for put in (run.streams.window_requests.put, run.streams.reward_requests.put, run.streams.inbox.append):
            await put([poison])

        assert await run.reconciliation.look() == 3
