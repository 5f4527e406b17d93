"""The run's lease, which makes this process the only learner of its run.

Loop `keep`: consumes nothing / waits a heartbeat / unblocked by the clock / produces a renewed lease, or the end of
this learner when another has taken the run over. While Redis is away the learner continues: nobody can take over then.
"""

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

from learner.persistence.run_identity import RunIdentity, begin_incarnation, has_ended, next_incarnation
from tppo.config import ConfigError
from tppo.streams import StreamsError, StreamsUnavailable, until_redis_answers
from tppo.streams.fence import Fence, Holder

logger = logging.getLogger(__name__)

RENEW_SECONDS = 1.0
LOOK_SECONDS = 0.25


async def acquire(
    fence: Fence, run_folder: Path, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
) -> RunIdentity:
    """The next incarnation, once Redis answers and no other learner runs: at once when the last one is known to have
    ended, else when its lease expires. Raises `ConfigError` when that is renewed meanwhile.
    """
    first_seen: Holder | None = None
    while True:
        granted = await until_redis_answers(lambda: _try_to_acquire(fence, run_folder), "acquiring the learner's lease")
        if not isinstance(granted, Holder):
            return begin_incarnation(run_folder, at_least=granted)
        if first_seen is None:
            logger.info("waiting for the lease of incarnation %d to expire", granted.incarnation)
            first_seen = granted
        if _is_running(first_seen, granted):
            raise ConfigError(
                f"another learner, incarnation {granted.incarnation} on {granted.host}, is training this run; "
                "expected none, or another run.name"
            )
        await sleep(LOOK_SECONDS)


async def keep(fence: Fence, identity: RunIdentity, position: Callable[[], str]) -> None:
    """Renew until cancelled; `position`: up to where this learner knows the inbox. Raises `FencedError`."""
    while True:
        try:
            await fence.renew(identity.incarnation, position())
        except StreamsError as error:
            logger.warning("cannot renew the learner's lease: %s; retry in %g s", error, RENEW_SECONDS)
        await asyncio.sleep(RENEW_SECONDS)


async def release(fence: Fence, identity: RunIdentity) -> None:
    """At an orderly end. Raises `FencedError`."""
    try:
        await fence.release(identity.incarnation)
    except StreamsUnavailable as error:
        logger.warning("cannot release the learner's lease: %s; it expires", error)


async def _try_to_acquire(fence: Fence, run_folder: Path) -> int | Holder:
    at_least = next_incarnation(run_folder)
    granted = await fence.acquire(at_least)
    if isinstance(granted, Holder) and _has_ended(granted, run_folder):
        return await fence.acquire(at_least, dead_incarnation=granted.incarnation)
    return granted


def _has_ended(holder: Holder, run_folder: Path) -> bool:
    return holder.host == socket.gethostname() and has_ended(run_folder, holder.incarnation)


def _is_running(before: Holder, now: Holder) -> bool:
    """Renewed since, or another one."""
    return now.incarnation != before.incarnation or now.remaining_milliseconds > before.remaining_milliseconds
