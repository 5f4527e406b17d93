"""How the inbox is read: at once where somebody waits, and in few large reads while a step is computed."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from learner.exchange import inbox as module
from learner.exchange.inbox import InboxLoop
from tests.support.waiting import DEADLINE_SECONDS, until
from tppo.process.cancellation import cancel_all
from tppo.streams.contract import BEGINNING
from tppo.streams.memory import MemoryInbox


def a_loop(
    inbox: MemoryInbox,
    *,
    on_entries: Callable[[int], None],
    entered: list[str] | None = None,
    held_at: Callable[[], str | None] = lambda: None,
    is_supplied: Callable[[], bool] = lambda: False,
) -> InboxLoop:
    """Every record is admitted, as its text, and noted in `entered`."""
    border: Any = SimpleNamespace(admit=bytes.decode)
    texts: list[str] = [] if entered is None else entered
    return InboxLoop(
        inbox,
        BEGINNING,
        border,
        enter=lambda _, record: texts.append(str(record)),
        reject=lambda *_: None,
        on_entries=on_entries,
        held_at=held_at,
        is_supplied=is_supplied,
    )


@asynccontextmanager
async def served_beside(loop: InboxLoop, *others: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(one) for one in (loop.serve(), *others)]
    yield
    await cancel_all(tasks)


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

    loop = a_loop(inbox, on_entries=note)
    async with served_beside(loop):
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


@pytest.mark.parametrize("is_supplied", [False, True])
async def test_they_wait_no_longer_than_they_may(is_supplied: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GATHERING_SECONDS", 10 * DEADLINE_SECONDS if is_supplied else 0.0)
    monkeypatch.setattr(module, "SUPPLIED_SECONDS", 0.0 if is_supplied else 10 * DEADLINE_SECONDS)
    inbox, found, is_done = MemoryInbox(), list[int](), asyncio.Event()

    def note(num_entries: int) -> None:
        found.append(num_entries)
        if sum(found) == 2:
            is_done.set()

    loop = a_loop(inbox, on_entries=note, is_supplied=lambda: is_supplied)
    with loop.gathering():
        async with served_beside(loop):
            for payload in (b"a", b"b"):
                await inbox.append([payload])
                await asyncio.sleep(0)
            async with asyncio.timeout(DEADLINE_SECONDS):
                await is_done.wait()
    assert sum(found) == 2


async def test_of_a_large_read_others_have_their_turn_between_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SLICE_BYTES", 6)
    inbox, happened = MemoryInbox(), list[str]()
    await inbox.append([b"abc", b"def", b"longer than a slice", b"g", b"h"])

    def note(num_entries: int) -> None:
        if num_entries:
            happened.append(f"{num_entries} taken, {'all' if loop.is_at_end else 'more'}")

    loop = a_loop(inbox, on_entries=note, entered=happened)

    async def another_task() -> None:
        while True:
            happened.append("another task")
            await asyncio.sleep(0)

    async with served_beside(loop, another_task()):
        await until(lambda: loop.position, "all are entered", is_met=lambda position: position == "5-0")

    of_loop = [one for one in happened if one != "another task"]
    assert of_loop == ["abc", "def", "2 taken, more", "longer than a slice", "1 taken, more", "g", "h", "2 taken, all"]
    for end_of_slice in ("2 taken, more", "1 taken, more"):
        assert happened[happened.index(end_of_slice) + 1] == "another task"


async def test_what_is_held_within_a_large_read_is_entered_once_in_its_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SLICE_BYTES", 2)
    inbox, entered, held_at = MemoryInbox(), list[str](), ["3-0"]
    payloads = [str(number).encode() for number in range(10)]
    await inbox.append(payloads)

    def release_soon(_: int) -> None:
        if loop.position == "3-0":
            held_at.clear()
            loop.release()

    loop = a_loop(inbox, on_entries=release_soon, entered=entered, held_at=lambda: held_at[0] if held_at else None)

    async with served_beside(loop):
        await until(lambda: loop.position, "all are entered", is_met=lambda position: position == "10-0")

    assert entered == [payload.decode() for payload in payloads]
