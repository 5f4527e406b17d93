"""How the inbox is read: at once where somebody waits, and in few large reads while a step is computed."""

import asyncio
from typing import Any

import pytest

from learner.exchange import inbox as module
from learner.exchange.inbox import InboxLoop
from learner.rollouts.border import RejectedError
from tests.support.waiting import DEADLINE_SECONDS
from tppo.streams.contract import BEGINNING
from tppo.streams.memory import MemoryInbox


class NothingAdmitted:
    """A border for which a record's content is of no interest."""

    def admit(self, payload: bytes) -> Any:
        raise RejectedError(payload.decode())


async def test_records_gather_while_a_step_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GATHERING_SECONDS", 10 * DEADLINE_SECONDS)
    inbox, reads, has_read = MemoryInbox(), list[int](), asyncio.Event()

    def note(num_entries: int) -> None:
        reads.append(num_entries)
        has_read.set()

    async def next_read() -> None:
        async with asyncio.timeout(DEADLINE_SECONDS):
            await has_read.wait()
        has_read.clear()

    border: Any = NothingAdmitted()
    loop = InboxLoop(inbox, BEGINNING, border, enter=lambda *_: None, reject=lambda *_: None, on_entries=note)
    serving = asyncio.create_task(loop.serve())
    for payload in (b"a", b"b"):
        await inbox.append([payload])
        await next_read()
    assert reads == [1, 1], "each at once, as somebody waits for it"
    with loop.gathering():
        await inbox.append([b"c"])
        await next_read()
        for payload in (b"d", b"e", b"f"):
            await inbox.append([payload])
            await asyncio.sleep(0)
        assert reads == [1, 1, 1]
    await next_read()
    assert reads == [1, 1, 1, 3]
    serving.cancel()
    await asyncio.wait([serving])


async def test_they_wait_no_longer_than_they_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GATHERING_SECONDS", 0.0)
    inbox, found, is_done = MemoryInbox(), list[int](), asyncio.Event()

    def note(num_entries: int) -> None:
        found.append(num_entries)
        if sum(found) == 2:
            is_done.set()

    border: Any = NothingAdmitted()
    loop = InboxLoop(inbox, BEGINNING, border, enter=lambda *_: None, reject=lambda *_: None, on_entries=note)
    with loop.gathering():
        serving = asyncio.create_task(loop.serve())
        for payload in (b"a", b"b"):
            await inbox.append([payload])
            await asyncio.sleep(0)
        async with asyncio.timeout(DEADLINE_SECONDS):
            await is_done.wait()
    serving.cancel()
    await asyncio.wait([serving])
