"""Calls of a user's reward function under a deadline: one that hangs costs itself alone.

A synchronous function runs in threads that make one call after another. No thread can be killed, so one whose call is
late is abandoned and replaced; it ends when its call returns after all. An asynchronous function's late call is
cancelled. Once `MAX_ABANDONED` calls hang, no other starts until one of them has ended.

    _CallThread._run    consumes calls / waits for the next / unblocked by `submit`, `end` / produces what they return
"""

import asyncio
import inspect
import logging
import threading
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from queue import SimpleQueue
from typing import Any

MAX_ABANDONED = 16  # calls of one function that hang
log = logging.getLogger(__name__)

Ended = tuple[Any, BaseException | None]  # what a call returned, or what it raised
Call = Callable[[], Any]


class CallTimedOutError(Exception):
    """No answer within the deadline; the text says which."""


class FunctionCalls:
    """Calls one function, several times at once."""

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        self._name = name
        self._function = function
        self._idle: list[_CallThread] = []
        self._abandoned: set[asyncio.Future[Ended]] = set()
        self._has_room = asyncio.Event()
        self._has_room.set()

    async def room(self) -> None:
        """Until another call may start."""
        await self._has_room.wait()

    async def ended(self, arguments: Mapping[str, Any], *, deadline_seconds: float) -> Ended:
        """What the function returns or raises; the error is a `CallTimedOutError` for a call that is given up."""
        thread = None if inspect.iscoroutinefunction(self._function) else self._thread()
        call = self._begun(arguments, thread)
        try:
            await asyncio.wait([call], timeout=deadline_seconds)
        finally:
            if not call.done():
                self._abandon(call, thread)
            elif thread is not None:
                self._idle.append(thread)
        if call.done():
            return call.result()
        self._note_abandoned(deadline_seconds)
        return None, CallTimedOutError(f"no answer within {deadline_seconds:g} s")

    def close(self) -> None:
        """Let idle threads end; one that is in a call ends with it, or with the process."""
        while self._idle:
            self._idle.pop().end()

    def _thread(self) -> "_CallThread":
        return self._idle.pop() if self._idle else _CallThread(self._name)

    def _begun(self, arguments: Mapping[str, Any], thread: "_CallThread | None") -> asyncio.Future[Ended]:
        if thread is None:
            return asyncio.create_task(_awaited(self._function(**arguments)))
        return thread.submit(lambda: self._function(**arguments))

    def _abandon(self, call: asyncio.Future[Ended], thread: "_CallThread | None") -> None:
        self._abandoned.add(call)
        call.add_done_callback(self._forget)
        if thread is None:
            call.cancel()
        else:
            thread.end()

    def _note_abandoned(self, deadline_seconds: float) -> None:
        count = f"{len(self._abandoned)} of at most {MAX_ABANDONED}"
        log.warning("%s: no answer within %g s; the call is abandoned (%s)", self._name, deadline_seconds, count)
        if len(self._abandoned) >= MAX_ABANDONED and self._has_room.is_set():
            self._has_room.clear()
            log.error("%s: %d calls hang; no other starts until one of them ends", self._name, len(self._abandoned))

    def _forget(self, call: asyncio.Future[Ended]) -> None:
        self._abandoned.discard(call)
        if not self._has_room.is_set():
            log.warning("%s: one of the calls that hang has ended; others start", self._name)
            self._has_room.set()


class _CallThread:
    """Does not keep the process alive, and is not awaited at its end."""

    def __init__(self, name: str) -> None:
        self._calls: SimpleQueue[tuple[Call, asyncio.Future[Ended]] | None] = SimpleQueue()
        threading.Thread(target=self._run, name=f"reward {name}", daemon=True).start()

    def submit(self, call: Call) -> asyncio.Future[Ended]:
        future: asyncio.Future[Ended] = asyncio.get_running_loop().create_future()
        self._calls.put((call, future))
        return future

    def end(self) -> None:
        """After the call that it is in."""
        self._calls.put(None)

    def _run(self) -> None:
        while (submitted := self._calls.get()) is not None:
            call, future = submitted
            ended = _called(call)
            with suppress(RuntimeError):  # the event loop was closed in the meantime
                future.get_loop().call_soon_threadsafe(_resolve, future, ended)


def _called(call: Call) -> Ended:
    try:
        return call(), None
    except BaseException as error:  # SystemExit, too, is a failure of this call alone
        return None, error


async def _awaited(coroutine: Coroutine[Any, Any, Any]) -> Ended:
    try:
        return await coroutine, None
    except (Exception, SystemExit, asyncio.CancelledError) as error:  # a task of the function's may be cancelled
        return None, error


def _resolve(future: asyncio.Future[Ended], ended: Ended) -> None:
    if not future.done():
        future.set_result(ended)
