"""Retrying while Redis is away, starting, or full in memory or on its disk: with back-off, until it answers."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from tppo.process.backoff import Backoff
from tppo.streams.contract import StreamsUnavailable

log = logging.getLogger(__name__)

FIRST_DELAY_SECONDS = 0.1
LONGEST_DELAY_SECONDS = 5.0
Result = TypeVar("Result")


async def until_redis_answers(action: Callable[[], Awaitable[Result]], what: str) -> Result:
    """The action's result, after as many attempts as it takes; `what` it does, for the log."""
    backoff = Backoff(first_seconds=FIRST_DELAY_SECONDS, longest_seconds=LONGEST_DELAY_SECONDS)
    while True:
        try:
            return await action()
        except StreamsUnavailable as error:
            delay_seconds = backoff.next_delay()
            log.warning("%s failed, retrying in %g s: %s", what, delay_seconds, error)
        await asyncio.sleep(delay_seconds)
