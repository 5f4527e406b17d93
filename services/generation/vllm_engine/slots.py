"""Which windows vLLM has: at most as many as it runs at once, and none more while weights are exchanged.

vLLM queues what it cannot run. Here windows wait on our side instead, so that a weight update finds little in vLLM
that was requested under the old weights and has not begun.
"""

import asyncio
import heapq
from collections import deque
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager


class GivenUpError(Exception):
    """A wait for a place that `give_up` ended."""


class Slots:
    """Numbered places; whoever has waited longest is given the lowest that is free; none is before `open`."""

    def __init__(self, num_slots: int) -> None:
        self.num_slots = num_slots
        self._free = list(range(num_slots))  # a heap
        self._waiting: deque[asyncio.Future[int]] = deque()
        self._of_owner: dict[Hashable, asyncio.Future[int]] = {}
        self._num_closers = 1  # until `open`
        self._opened = asyncio.Event()
        self._all_free = asyncio.Event()
        self._all_free.set()

    @property
    def num_waiting(self) -> int:
        """Windows without a place."""
        return sum(not waiting.done() for waiting in self._waiting)

    @asynccontextmanager
    async def place(self, owner: Hashable) -> AsyncIterator[int]:
        """A place until the end of the context. `GivenUpError`: the owner is to wait no longer."""
        slot = await self._taken(owner)
        try:
            yield slot
        finally:
            self._return(slot)

    @property
    def is_open(self) -> bool:
        """Whether places are given."""
        return self._num_closers == 0

    def open(self) -> None:
        """There are weights now, or the engine is awake again."""
        self._num_closers -= 1
        self._give()

    def close(self) -> None:
        """Until the next `open` nobody is given a place."""
        self._num_closers += 1
        self._opened.clear()

    async def until_open(self) -> None:
        """Until places are given again."""
        await self._opened.wait()

    @asynccontextmanager
    async def closed(self, *, when_all_are_free: bool) -> AsyncIterator[None]:
        """Nobody is given a place within; on demand it begins when every place has been returned."""
        self._num_closers += 1
        self._opened.clear()
        try:
            if when_all_are_free:
                await self._all_free.wait()
            yield
        finally:
            self._num_closers -= 1
            self._give()

    def give_up(self, owner: Hashable) -> None:
        """End the owner's wait, if it waits."""
        waiting = self._of_owner.get(owner)
        if waiting is not None and not waiting.done():
            waiting.set_exception(GivenUpError)

    async def _taken(self, owner: Hashable) -> int:
        waiting: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiting)
        self._of_owner[owner] = waiting
        self._give()
        try:
            return await waiting
        except asyncio.CancelledError:
            if waiting.done() and not waiting.cancelled():  # given in the moment of the cancellation
                self._return(waiting.result())
            raise
        finally:
            if self._of_owner.get(owner) is waiting:
                del self._of_owner[owner]

    def _return(self, slot: int) -> None:
        heapq.heappush(self._free, slot)
        self._give()
        if len(self._free) == self.num_slots:
            self._all_free.set()

    def _give(self) -> None:
        if not self.is_open:
            return
        self._opened.set()
        while self._free and self._waiting:
            waiting = self._waiting.popleft()
            if not waiting.done():
                waiting.set_result(heapq.heappop(self._free))
                self._all_free.clear()
