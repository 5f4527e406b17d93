"""Patience with Redis: what fails because the server is away, starting, or full in memory or on its disk is tried
again, for ever.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import OutOfMemoryError, RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

log = logging.getLogger(__name__)

REDIS_ERRORS = (RedisConnectionError, RedisTimeoutError, OutOfMemoryError)
FIRST_DELAY_SECONDS = 0.1
LONGEST_DELAY_SECONDS = 5.0
NO_DISK = "MISCONF"  # how the refusal of a server begins that cannot write its file; redis-py has no class for it
Result = TypeVar("Result")


async def until_redis_answers(action: Callable[[], Awaitable[Result]], what: str) -> Result:
    """The action's result, after as many attempts as it takes; `what` it does, for the log."""
    delay_seconds = FIRST_DELAY_SECONDS
    while True:
        try:
            return await action()
        except RedisError as error:
            if not _is_passing(error):
                raise
            log.warning("%s failed, again in %g s: %s", what, delay_seconds, error)
        await asyncio.sleep(delay_seconds)
        delay_seconds = min(2 * delay_seconds, LONGEST_DELAY_SECONDS)


def _is_passing(error: RedisError) -> bool:
    return isinstance(error, REDIS_ERRORS) or str(error).startswith(NO_DISK)
