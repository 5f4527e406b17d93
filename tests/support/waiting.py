"""How long the tests wait for what other tasks, threads and processes do: until it has happened.

`DEADLINE_SECONDS` is the one limit on such waits. It is far more than a loaded machine needs, so it ends only a wait
for what never comes; then the test fails with what was seen last.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

DEADLINE_SECONDS: Final = 300.0
POLL_SECONDS: Final = 0.01

T = TypeVar("T")


def wait_until(look: Callable[[], T], what: str, *, poll_seconds: float = POLL_SECONDS) -> T:
    """The first true answer of `look`, for a test without an event loop."""
    give_up_at = time.monotonic() + DEADLINE_SECONDS
    while not (seen := look()):
        assert time.monotonic() < give_up_at, _missed(what, seen)
        time.sleep(poll_seconds)
    return seen


async def until(look: Callable[[], T], what: str) -> T:
    """The first true answer of `look`."""

    async def answer() -> T:
        return look()

    return await until_answered(answer, what)


async def until_answered(look: Callable[[], Awaitable[T]], what: str) -> T:
    """The first true answer of `look`, which asks another process."""
    give_up_at = asyncio.get_running_loop().time() + DEADLINE_SECONDS
    while not (seen := await look()):
        assert asyncio.get_running_loop().time() < give_up_at, _missed(what, seen)
        await asyncio.sleep(POLL_SECONDS)
    return seen


def _missed(what: str, seen: object) -> str:
    return f"not within {DEADLINE_SECONDS:.0f} s: {what}; seen last: {seen!r}"
