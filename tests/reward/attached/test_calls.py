"""Calls of a function that hang."""

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest

from tests.support.waiting import DEADLINE_SECONDS, until
from tppo.scoring.calls import MAX_ABANDONED, CallTimedOutError, FunctionCalls

SHORT_SECONDS = 0.02


@pytest.fixture
async def may_return() -> AsyncIterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


async def hang(calls: FunctionCalls, count: int) -> None:
    for _ in range(count):
        _, error = await calls.ended({}, deadline_seconds=SHORT_SECONDS)
        assert isinstance(error, CallTimedOutError)


async def test_a_call_after_one_that_hangs_has_a_thread_of_its_own(may_return: threading.Event) -> None:
    threads: list[threading.Thread] = []

    def function(hangs: bool) -> int:
        threads.append(threading.current_thread())
        if hangs:
            may_return.wait(DEADLINE_SECONDS)
        return 7

    calls = FunctionCalls("mine", function)
    ended = [await calls.ended({"hangs": False}, deadline_seconds=DEADLINE_SECONDS)]
    _, error = await calls.ended({"hangs": True}, deadline_seconds=SHORT_SECONDS)
    ended += [await calls.ended({"hangs": False}, deadline_seconds=DEADLINE_SECONDS) for _ in range(2)]
    calls.close()

    assert ended == [(7, None)] * 3
    assert isinstance(error, CallTimedOutError)
    assert threads[0] is threads[1]
    assert threads[1] is not threads[2] is threads[3]
    may_return.set()
    await until(
        lambda: any(thread.is_alive() for thread in threads), "an end of all threads", is_met=lambda one: not one
    )


async def test_no_further_call_starts_while_too_many_hang_and_the_log_says_so(
    may_return: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    calls = FunctionCalls("mine", lambda: may_return.wait(DEADLINE_SECONDS))
    await hang(calls, MAX_ABANDONED)
    room = asyncio.create_task(calls.room())
    done, _ = await asyncio.wait([room], timeout=SHORT_SECONDS)
    may_return.set()
    await room
    value, _ = await calls.ended({}, deadline_seconds=DEADLINE_SECONDS)
    calls.close()

    assert not done
    assert value is True
    messages = [record.getMessage() for record in caplog.records]
    assert messages[0] == "mine: no answer within 0.02 s; the call is abandoned (1 of at most 16)"
    assert "mine: 16 calls hang; no other starts until one of them ends" in messages
    assert messages[-1] == "mine: one of the calls that hang has ended; others start"


async def test_an_asynchronous_call_that_hangs_is_cancelled() -> None:
    ends: list[str] = []

    async def function() -> None:
        try:
            await asyncio.sleep(DEADLINE_SECONDS)
        finally:
            ends.append("cancelled")

    await hang(FunctionCalls("mine", function), 1)
    await until(lambda: ends, "a cancelled call")

    assert ends == ["cancelled"]


async def test_a_caller_that_is_cancelled_abandons_its_call(may_return: threading.Event) -> None:
    has_begun = threading.Event()

    def function() -> None:
        has_begun.set()
        may_return.wait(DEADLINE_SECONDS)

    calling = asyncio.create_task(FunctionCalls("mine", function).ended({}, deadline_seconds=DEADLINE_SECONDS))
    await asyncio.to_thread(has_begun.wait, DEADLINE_SECONDS)
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
