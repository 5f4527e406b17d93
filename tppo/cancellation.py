"""Cancelling for good: in Python 3.11 a cancellation that meets the end of a `wait_for`, as in redis-py, is lost."""

import asyncio
from collections.abc import Iterable
from typing import Any

AGAIN_SECONDS = 0.1


async def cancel_all(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Returns when all of them have ended; how, is not looked at."""
    pending = {task for task in tasks if not task.done()}
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=AGAIN_SECONDS)
