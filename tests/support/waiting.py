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


def wait_until(
    look: Callable[[], T],
    what: str,
    *,
    is_met: Callable[[T], object] = bool,
    poll_seconds: float = POLL_SECONDS,
    deadline_seconds: float = DEADLINE_SECONDS,
) -> T:
    """The first answer of `look` that meets the condition, for a test without an event loop."""
    give_up_at = time.monotonic() + deadline_seconds
    while not is_met(seen := look()):
        assert time.monotonic() < give_up_at, _missed(what, seen, deadline_seconds)
        time.sleep(poll_seconds)
    return seen


async def until(look: Callable[[], T], what: str, *, is_met: Callable[[T], object] = bool) -> T:
    """The first answer of `look` that meets the condition."""

    async def answer() -> T:
        return look()

    return await until_answered(answer, what, is_met=is_met)


async def until_answered(look: Callable[[], Awaitable[T]], what: str, *, is_met: Callable[[T], object] = bool) -> T:
    """The first answer of `look`, which asks another process, that meets the condition."""
    give_up_at = time.monotonic() + DEADLINE_SECONDS
    while not is_met(seen := await look()):
        assert time.monotonic() < give_up_at, _missed(what, seen)
        await asyncio.sleep(POLL_SECONDS)
    return seen


def _missed(what: str, seen: object, deadline_seconds: float = DEADLINE_SECONDS) -> str:
    return f"not within {deadline_seconds:.0f} s: {what}; seen last: {seen!r}"
