"""Makes room in a Redis that is full: a checkpoint ahead of time lets the inbox be trimmed.

Loop `serve`: consumes the server's memory / waits `LOOK_SECONDS` / unblocked by the clock / produces the wish for a
checkpoint. Without it, windows that find no room and a learner that waits for them would wait for each other.
"""

import asyncio
import logging
from collections.abc import Callable

from redis.exceptions import RedisError

from tppo.streams import Streams
from tppo.streams.contract import BEGINNING, position_of

logger = logging.getLogger(__name__)

LOOK_SECONDS = 1.0


class Relief:
    """Of one learner's streams."""

    def __init__(self, streams: Streams, position: Callable[[], str], wake: Callable[[], None]) -> None:
        """`position`: up to where the inbox is in the ledger; `wake`: there is a wish."""
        self._streams = streams
        self._position = position
        self._wake = wake
        self._is_wanted = False

    def take(self) -> bool:
        """Whether a checkpoint is wished for; asked once."""
        is_wanted, self._is_wanted = self._is_wanted, False
        return is_wanted

    async def look(self) -> None:
        """Wish for a checkpoint when the server is full and one would let something be trimmed."""
        if not await self._streams.is_full():
            return
        oldest = await self._streams.inbox.read(BEGINNING, max_count=1, wait_seconds=0)
        if oldest and position_of(oldest[0].position) <= position_of(self._position()):
            logger.warning("Redis has no room; taking a checkpoint to trim the inbox")
            self._is_wanted = True
            self._wake()

    async def serve(self) -> None:
        """Look until cancelled."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                await self.look()
            except (RedisError, OSError) as error:
                logger.warning("cannot ask for the server's memory: %s", error)
