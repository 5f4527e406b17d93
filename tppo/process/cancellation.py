"""Cancelling for good: in Python 3.11 a cancellation that meets the end of a `wait_for`, as in redis-py, is lost."""

import asyncio
import contextlib
import contextvars
from collections.abc import Coroutine, Generator, Iterable
from types import TracebackType
from typing import Any, TypeVar

AGAIN_SECONDS = 0.1
T = TypeVar("T")


async def cancel_all(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Returns when all of them have ended; how, is not looked at."""
    pending = {task for task in tasks if not task.done()}
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=AGAIN_SECONDS)


class TaskGroup(asyncio.TaskGroup):
    """Like asyncio's, but once it ends its tasks it does not rest until they have ended.

    Its body must not lose a cancellation either: let it wait for tasks by `asyncio.wait`, and do the work in them.
    """

    async def __aenter__(self) -> "TaskGroup":
        """Begin."""
        await super().__aenter__()
        self._members: set[asyncio.Task[Any]] = set()
        self._insisting = super().create_task(self._insist())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Wait until all have ended, or, after a failure, until all have been ended. Raises as asyncio's does."""
        try:
            while error is None and self._members:
                await asyncio.wait(self._members)
        except asyncio.CancelledError as cancelled:  # by the caller, or by the group because a task failed
            kind, error, traceback = type(cancelled), cancelled, cancelled.__traceback__
        self._insisting.cancel()
        await super().__aexit__(kind, error, traceback)

    def create_task(
        self,
        coro: Coroutine[Any, Any, T] | Generator[Any, None, T],
        *,
        name: str | None = None,
        context: contextvars.Context | None = None,
    ) -> asyncio.Task[T]:
        """A task of the group."""
        task = super().create_task(coro, name=name, context=context)
        self._members.add(task)
        task.add_done_callback(self._members.discard)
        return task

    async def _insist(self) -> None:
        """Cancelled together with the others, perhaps more than once: where they may lose it, this cannot."""
        try:
            await asyncio.Event().wait()
        finally:
            while self._members:
                with contextlib.suppress(asyncio.CancelledError):
                    await cancel_all(self._members)
                    await asyncio.sleep(0)  # a task that has ended leaves the members a moment later
