"""When a window is handed over: at the end of the process, or because it takes longer than its bound.

A window that is cut is posted short, finish reason CUT, where it has more tokens than the tail that trains no policy;
the rest of its response is an ordinary next window. With fewer, its lease is released, and it begins again elsewhere.

Loop `Handover.window`, one per request: consumes a request / waits for the engine, and looks once a second / unblocked
by the window's end, by `end`, or by the bound / produces the window, or `HandedBackError`.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from services.generation.engine import Engine
from tppo.process.cancellation import cancel_all
from tppo.process.leased_worker import HandedBackError
from tppo.rollout import FinishReason, Window, WindowRequest

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
Bound = Callable[[WindowRequest], float | None]


def without_bound(_: WindowRequest) -> None:
    """A window may take as long as it takes."""


class Handover:
    """Of one generator's windows."""

    def __init__(
        self,
        engine: Engine,
        *,
        num_ignored_tail_tokens: int = 0,
        bound_seconds: Bound = without_bound,
        look_seconds: float = LOOK_SECONDS,
    ) -> None:
        """`bound_seconds`: for which a request may wait for a slot, and its window may run; None: without limit."""
        self._engine = engine
        self._num_ignored = num_ignored_tail_tokens
        self._bound_seconds = bound_seconds
        self._look_seconds = look_seconds
        self._under_way: set[tuple[str, int]] = set()
        self._waiting: set[asyncio.Task[Any]] = set()
        self._is_ending = False
        self.num_cut = 0  # windows that were posted short

    async def end(self) -> None:
        """The process is to end: let every window end with what it has, and begin none."""
        self._is_ending = True
        for task in self._waiting:
            task.cancel()
        for key in list(self._under_way):
            await self._engine.cut(*key)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Around what the current task awaits before its window, which `end` cancels: its lease is released then."""
        task = asyncio.current_task()
        assert task is not None
        self._waiting.add(task)
        try:
            yield
        finally:
            self._waiting.discard(task)

    async def window(self, request: WindowRequest) -> Window:
        """As `Engine.generate`. Raises `HandedBackError` for one that ended without enough tokens to train on."""
        if self._is_ending:
            raise HandedBackError("the generator is ending")
        self._under_way.add(request.key)
        generating = asyncio.create_task(self._engine.generate(request))
        try:
            await self._until_ended(request, generating)
            return self._worth_posting(request, await generating)
        finally:
            self._under_way.discard(request.key)
            await cancel_all([generating])

    async def _until_ended(self, request: WindowRequest, generating: asyncio.Task[Window]) -> None:
        """Once it is due, cut it at each look: what has just been submitted may not be under way yet."""
        began_at = time.time()
        while not generating.done():
            await asyncio.wait([generating], timeout=self._look_seconds)
            if not generating.done() and (self._is_ending or self._takes_too_long(request, began_at)):
                await self._engine.cut(*request.key)

    def _takes_too_long(self, request: WindowRequest, began_at: float) -> bool:
        """Whether it ran, or waited for a slot, beyond its bound; a running one has as long again for enough tokens."""
        bound_seconds = self._bound_seconds(request)
        if bound_seconds is None:
            return False
        running = {(one.rollout_id, one.window_index): one for one in self._engine.statistics().running}
        one = running.get(request.key)
        if one is None:
            return time.time() - began_at > bound_seconds
        has_enough = one.num_tokens >= self._least_tokens(request)
        return time.time() - one.started_at > (bound_seconds if has_enough else 2 * bound_seconds)

    def _least_tokens(self, request: WindowRequest) -> int:
        return 1 if request.is_evaluation else self._num_ignored + 1

    def _worth_posting(self, request: WindowRequest, window: Window) -> Window:
        if window.finish_reason is not FinishReason.CUT:
            return window
        least = self._least_tokens(request)
        if len(window.tokens) < least:
            raise HandedBackError(f"its window was cut after {len(window.tokens)} tokens; expected {least} to post it")
        self.num_cut += 1
        log.info("window %d of %s is handed over after %d tokens", *request.key[::-1], len(window.tokens))
        return window
