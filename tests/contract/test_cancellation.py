import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from services.dashboard.build import until_served
from services.reward.attached.rpc import _first_to_end
from tests.support.waiting import DEADLINE_SECONDS
from tppo.process.cancellation import TaskGroup, cancel_all


async def careless() -> None:
    """Loses its first cancellation, as redis-py may."""
    try:
        await asyncio.sleep(1000)
    except asyncio.CancelledError:
        await asyncio.sleep(1000)


async def serve_beside(server: Coroutine[Any, Any, None], loop: Coroutine[Any, Any, None]) -> None:
    await until_served(server, [loop])


async def failing(error: Exception) -> None:
    await asyncio.sleep(0)
    raise error


async def test_a_task_that_swallows_its_first_cancellation_is_cancelled_again() -> None:
    tasks = [asyncio.create_task(careless()) for _ in range(2)]
    await asyncio.sleep(0)

    await cancel_all(tasks)

    assert all(task.cancelled() for task in tasks)


@pytest.mark.parametrize("together", [serve_beside, _first_to_end], ids=["the dashboard's loops", "a client's loops"])
async def test_loops_that_end_together_do_not_wait_for_one_that_swallows_its_first_cancellation(
    together: Callable[..., Coroutine[Any, Any, None]],
) -> None:
    ended = asyncio.Event()

    async def loop() -> None:
        try:
            await careless()
        finally:
            ended.set()

    await asyncio.wait_for(together(asyncio.sleep(0.01), loop()), DEADLINE_SECONDS)

    assert ended.is_set()


async def test_a_group_waits_for_its_tasks_and_for_those_that_they_start() -> None:
    ended = list[str]()

    async def inner() -> None:
        await asyncio.sleep(0.01)
        ended.append("inner")

    async def outer(group: TaskGroup) -> None:
        await asyncio.sleep(0)
        group.create_task(inner())
        ended.append("outer")

    async with TaskGroup() as group:
        group.create_task(outer(group))

    assert ended == ["outer", "inner"]


async def test_a_failure_ends_a_group_whose_tasks_swallow_cancellations() -> None:
    tasks = list[asyncio.Task[None]]()

    async def grouped() -> None:
        async with TaskGroup() as group:
            tasks.append(group.create_task(careless()))
            group.create_task(failing(ValueError("this one")))

    with pytest.raises(ExceptionGroup) as raised:
        await grouped()

    assert [str(error) for error in raised.value.exceptions] == ["this one"]
    assert tasks[0].cancelled()


async def test_a_failure_interrupts_the_body() -> None:
    async def grouped() -> None:
        async with TaskGroup() as group:
            group.create_task(failing(ValueError("this one")))
            await asyncio.sleep(1000)

    with pytest.raises(ExceptionGroup) as raised:
        await grouped()

    assert [str(error) for error in raised.value.exceptions] == ["this one"]


async def test_cancelling_a_group_ends_tasks_that_swallow_cancellations() -> None:
    tasks = list[asyncio.Task[None]]()

    async def grouped() -> None:
        async with TaskGroup() as group:
            tasks.append(group.create_task(careless()))

    whole = asyncio.create_task(grouped())
    while not tasks:  # noqa: ASYNC110
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    whole.cancel()

    with pytest.raises(asyncio.CancelledError):
        await whole
    assert tasks[0].cancelled()


async def test_an_error_in_the_body_is_raised_and_cancels_the_tasks() -> None:
    tasks = list[asyncio.Task[None]]()

    async def grouped() -> None:
        async with TaskGroup() as group:
            tasks.append(group.create_task(careless()))
            await asyncio.sleep(0)
            raise ValueError("in the body")

    with pytest.raises(ExceptionGroup) as raised:
        await grouped()

    assert [str(error) for error in raised.value.exceptions] == ["in the body"]
    assert tasks[0].cancelled()
