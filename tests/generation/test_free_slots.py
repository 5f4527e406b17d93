"""Guests run in what windows leave, and give it up as soon as a window needs it."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from services.generation.fleet.free_slots import FreeSlots
from tppo.process.cancellation import cancel_all


class Work:
    """Of guests: each begins, and ends when it is released."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.ended: list[str] = []
        self._release = asyncio.Event()

    def of(self, name: str) -> Callable[[], Coroutine[Any, Any, str]]:
        async def run() -> str:
            self.begun.append(name)
            try:
                await self._release.wait()
            finally:
                self.ended.append(name)
            return name

        return run

    def release(self) -> None:
        self._release.set()


def guests_of(slots: FreeSlots, work: Work, *names: str) -> dict[str, "asyncio.Task[str | None]"]:
    return {name: asyncio.create_task(slots.run(work.of(name))) for name in names}


async def settled() -> None:
    """Everything that can happen has happened."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_guests_take_the_slots_that_windows_leave_in_the_order_in_which_they_came() -> None:
    slots, work = FreeSlots(3), Work()
    with slots.window():
        guests = guests_of(slots, work, "a", "b", "c", "d")
        await settled()
        assert (work.begun, slots.num_guests, slots.num_waiting) == (["a", "b"], 2, 2)
        work.release()
        found = await asyncio.gather(*guests.values())

    assert (work.begun, found) == (["a", "b", "c", "d"], ["a", "b", "c", "d"])


async def test_a_window_gets_the_slot_of_the_guest_that_came_last_at_once() -> None:
    slots, work = FreeSlots(2), Work()
    guests = guests_of(slots, work, "a", "b")
    await settled()

    with slots.window():
        assert slots.num_guests == 1
        assert await guests["b"] is None
        assert not guests["a"].done()
        work.release()
        assert await guests["a"] == "a"


async def test_windows_that_wait_in_the_engine_keep_guests_out_until_they_have_ended() -> None:
    slots, work = FreeSlots(1), Work()
    with slots.window():
        with slots.window():
            guests = guests_of(slots, work, "a")
            await settled()
        await settled()
        assert work.begun == []
    work.release()

    assert await guests["a"] == "a"


async def test_no_guest_runs_while_weights_wait_for_all_rows_to_end() -> None:
    slots, work = FreeSlots(4), Work()
    first = guests_of(slots, work, "a", "b")
    await settled()
    with slots.held():
        assert [await guest for guest in first.values()] == [None, None]
        second = guests_of(slots, work, "c")
        await settled()
        assert work.begun == ["a", "b"]
    work.release()

    assert await second["c"] == "c"


async def test_a_guest_that_leaves_frees_its_slot_and_one_that_leaves_the_queue_frees_its_place() -> None:
    slots, work = FreeSlots(1), Work()
    guests = guests_of(slots, work, "a", "b", "c")
    await settled()

    await cancel_all([guests["b"]])
    await cancel_all([guests["a"]])
    await settled()

    assert (work.begun, work.ended, slots.num_waiting) == (["a", "c"], ["a"], 0)
    work.release()
    assert await guests["c"] == "c"


async def test_what_a_guest_s_work_raises_is_the_guest_s() -> None:
    async def fail() -> str:
        raise ValueError("too long")

    slots = FreeSlots(1)
    with pytest.raises(ValueError, match="too long"):
        await slots.run(fail)

    assert slots.num_guests == 0
