"""What generation has done so far: the generators' own counts, and the time since the first window began."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from tppo.generation_totals import GenerationTotals
from tppo.process.presence import HEARTBEAT_SECONDS
from tppo.rollout import InboxRecord, Window
from tppo.streams import StreamsError

logger = logging.getLogger(__name__)

SETTLING_SECONDS = 2.5 * HEARTBEAT_SECONDS


class GenerationWatch:
    """`read` gives what all generators have done, as of their last heartbeats."""

    def __init__(
        self,
        read: Callable[[], Awaitable[GenerationTotals]],
        *,
        is_resumed: bool,
        settling_seconds: float = SETTLING_SECONDS,
    ) -> None:
        self._read = read
        self._is_resumed = is_resumed  # then the first windows are no longer in the inbox
        self._settling_seconds = settling_seconds
        self._first_window_at: float | None = None  # seconds since the epoch
        self.totals = GenerationTotals()

    def note(self, record: InboxRecord) -> None:
        """A record of the inbox; generation began with the first training window."""
        if isinstance(record, Window) and not record.is_evaluation and not self._is_resumed:
            self._first_window_at = min(record.started_at, self._first_window_at or record.started_at)

    def seconds_since_first_window(self) -> float | None:
        """None while there is none, and in a resumed run."""
        return None if self._first_window_at is None else time.time() - self._first_window_at

    async def observe(self) -> None:
        """Read the totals; the last ones stand while Redis does not answer."""
        try:
            self.totals = await self._read()
        except StreamsError as error:
            logger.warning("cannot read the generators' counts: %s; the last ones stand", error)

    async def observe_idle(self) -> None:
        """Once nothing is in flight: the generators' next heartbeats have everything that they did."""
        await asyncio.sleep(self._settling_seconds)
        await self.observe()
