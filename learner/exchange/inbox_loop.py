"""Reads the inbox: windows, scores and commands, in the order in which they arrived.

Loop `serve`: consumes inbox entries / waits for the next ones / unblocked by generators, reward workers and operators /
produces changes of the rollout manager. The position is where reading goes on; a checkpoint keeps it, and the inbox is
trimmed up to a committed one alone.
"""

import asyncio
import logging
from collections.abc import Callable

from learner.rollouts.rollout import Position
from tppo import codec
from tppo.backoff import Backoff
from tppo.rollout import InboxRecord
from tppo.streams import Inbox, InboxEntry, StreamsError
from tppo.streams.contract import position_of

logger = logging.getLogger(__name__)

READ_COUNT = 256  # inbox entries per read
READ_WAIT_SECONDS = 1.0
FIRST_DELAY_SECONDS = 0.5  # between attempts while Redis does not answer
LONGEST_DELAY_SECONDS = 4.0


class InboxLoop:
    """The reader of one learner."""

    def __init__(
        self,
        inbox: Inbox,
        position: str,
        *,
        enter: Callable[[Position, InboxRecord], None],
        on_entries: Callable[[int], None],
    ) -> None:
        """`enter` takes each record; `on_entries` is called after each read with the number of entries."""
        self._inbox = inbox
        self._enter = enter
        self._on_entries = on_entries
        self.position = position

    async def serve(self) -> None:
        """Read until cancelled."""
        backoff = Backoff(first_seconds=FIRST_DELAY_SECONDS, longest_seconds=LONGEST_DELAY_SECONDS)
        while True:
            try:
                entries = await self._inbox.read(self.position, max_count=READ_COUNT, wait_seconds=READ_WAIT_SECONDS)
            except StreamsError as error:
                delay_seconds = backoff.next_delay()
                logger.warning("cannot read the inbox: %s; retry in %g s", error, delay_seconds)
                await asyncio.sleep(delay_seconds)
            else:
                backoff.reset()
                self._take(entries)

    def _take(self, entries: list[InboxEntry]) -> None:
        for entry in entries:
            self._enter(position_of(entry.position), codec.decode_inbox_record(entry.payload))
            self.position = entry.position
        self._on_entries(len(entries))
