"""Slots of the engine that no window of the run needs, for guests: other people's requests.

A window never waits for a guest. Where all slots are taken, the guest that came last gives its own up; it keeps the
tokens that it has, and waits for a slot again.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")


class FreeSlots:
    """Counts the windows in the engine, and lets guests run in what they leave."""

    def __init__(self, num_slots: int) -> None:
        self._num_slots = num_slots
        self._num_windows = 0  # in the engine, those too that wait there
        self._num_holds = 0
        self._running: list[asyncio.Task[Any]] = []  # guests, in the order in which they began
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def num_guests(self) -> int:
        """That have a slot."""
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        """Guests without a slot."""
        return len(self._waiting)

    @contextmanager
    def window(self) -> Iterator[None]:
        """Within, one window more is in the engine."""
        self._num_windows += 1
        self._give_up_slots()
        try:
            yield
        finally:
            self._num_windows -= 1
            self._admit()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Within, no guest runs: something waits for all rows of the engine to end."""
        self._num_holds += 1
        self._give_up_slots()
        try:
            yield
        finally:
            self._num_holds -= 1
            self._admit()

    async def run(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T | None:
        """What a guest's work comes to, once a slot is free; None where the slot was needed before its end."""
        await self._free_slot()
        task = asyncio.create_task(work())
        self._running.append(task)
        try:
            await asyncio.wait([task])
            return None if task.cancelled() else task.result()
        finally:
            task.cancel()
            if task in self._running:
                self._running.remove(task)
            self._admit()

    @property
    def _num_free(self) -> int:
        return 0 if self._num_holds else self._num_slots - self._num_windows - len(self._running)

    async def _free_slot(self) -> None:
        is_newcomer = True
        while self._num_free < 1 or (is_newcomer and self._waiting):
            turn = asyncio.get_running_loop().create_future()
            (self._waiting.append if is_newcomer else self._waiting.appendleft)(turn)
            is_newcomer = False
            try:
                await turn
            except asyncio.CancelledError:
                if turn in self._waiting:
                    self._waiting.remove(turn)
                self._admit()  # the turn that it may have had
                raise

    def _give_up_slots(self) -> None:
        while self._running and (self._num_holds or self._num_free < 0):
            self._running.pop().cancel()

    def _admit(self) -> None:
        for _ in range(min(len(self._waiting), self._num_free)):
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
