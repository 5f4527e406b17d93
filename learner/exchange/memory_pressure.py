"""What to do when Redis is full: request a checkpoint ahead of time, after which the inbox can be trimmed.

Loop `serve`: consumes the server's memory / waits `LOOK_SECONDS` / unblocked by the clock / produces the request for a
checkpoint. Without it, windows that find no room and a learner that waits for them would wait for each other.
"""

import asyncio
import logging
from collections.abc import Callable

from tppo.streams import Streams, StreamsError
from tppo.streams.contract import BEGINNING, position_of

logger = logging.getLogger(__name__)

LOOK_SECONDS = 1.0


class MemoryPressure:
    """Of the server under one learner's streams, whose high-water mark `Streams.is_full` knows."""

    def __init__(self, streams: Streams, position: Callable[[], str], wake: Callable[[], None]) -> None:
        """`position`: up to where the inbox is in the ledger; `wake`: a checkpoint is requested."""
        self._streams = streams
        self._position = position
        self._wake = wake
        self._is_checkpoint_requested = False

    def take_checkpoint_request(self) -> bool:
        """Whether a checkpoint was requested since the last call."""
        is_requested, self._is_checkpoint_requested = self._is_checkpoint_requested, False
        return is_requested

    async def look(self) -> None:
        """Request a checkpoint when the server is full and one would let something be trimmed."""
        if not await self._streams.is_full():
            return
        oldest = await self._streams.inbox.read(BEGINNING, max_count=1, wait_seconds=0)
        if oldest and position_of(oldest[0].position) <= position_of(self._position()):
            logger.warning("Redis is full; committing a checkpoint to trim the inbox")
            self._is_checkpoint_requested = True
            self._wake()

    async def serve(self) -> None:
        """Look until cancelled."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                await self.look()
            except StreamsError as error:
                logger.warning("cannot read the server's memory: %s", error)
