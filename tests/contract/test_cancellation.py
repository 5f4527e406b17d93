import asyncio

from tppo.cancellation import cancel_all


async def test_a_task_that_loses_its_first_cancellation_ends_nevertheless() -> None:
    async def careless() -> None:
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            await asyncio.sleep(1000)

    tasks = [asyncio.create_task(careless()) for _ in range(2)]
    await asyncio.sleep(0)

    await cancel_all(tasks)

    assert all(task.cancelled() for task in tasks)
