"""What happens in the run, as server-sent events: at most ten messages a second, however busy the run is.

Loops:
* `Broadcaster.serve`: consumes what was read of the followed run's folder and the newest observation / waits a quarter
  of a second / produces messages into one bounded ring; what has come since the last look is joined, a message a
  kind: of several statuses the newest remains, of several changes of a window one bar.
* `Broadcaster.messages` (one per reader): consumes the ring behind its own position / waits for the next message, or
  for its turn: a reader gets ten a second even when it catches up. One that has fallen behind the ring is sent
  `reset`: it must read everything again. So no reader has a queue of its own, and none holds up another.

Ids are milliseconds since the epoch, each above the one before: they rise over a restart of the dashboard too.
"""

import asyncio
import json
import time
from collections import deque
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from services.dashboard.history.catalog import NoSuchRunError
from services.dashboard.history.run import News, RunHistory
from services.dashboard.live.messages import bar_of, event_of, finite
from services.dashboard.live.status import status_of
from services.dashboard.live.view import View, Views

TICK_SECONDS = 0.25
SECONDS_BETWEEN_MESSAGES = 0.1
STATUS_SECONDS = 1.0
RING_SIZE = 300
"""Half a minute of a busy run: long enough to reconnect."""
MAX_ENTRIES = 200
"""In one message; the rest follows in the next."""
MAX_READERS = 64
GRACE_SECONDS = 30.0
"""For which the ring is filled after the last reader has left: it may come back."""


@dataclass(frozen=True, slots=True)
class Message:
    """One event of the stream."""

    id: int
    event: str
    data: str
    """JSON."""


class TooManyReadersError(Exception):
    """Another reader would be one too many."""


class Ring:
    """The newest messages; whoever reads keeps a position of its own, the id of the last message that it has."""

    def __init__(self, size: int = RING_SIZE) -> None:
        self._messages: deque[Message] = deque(maxlen=size)
        self._has_news = asyncio.Condition()
        self.newest_id = self._oldest_position = int(time.time() * 1000)

    async def add(self, event: str, data: Any) -> None:
        """Append a message, and wake those who wait."""
        if len(self._messages) == self._messages.maxlen:
            self._oldest_position = self._messages[0].id
        self.newest_id = max(self.newest_id + 1, int(time.time() * 1000))
        text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        self._messages.append(Message(self.newest_id, event, text))
        async with self._has_news:
            self._has_news.notify_all()

    def break_off(self) -> None:
        """Messages are missing here: no reader can continue from before."""
        self._messages.clear()
        self.newest_id += 1
        self._oldest_position = self.newest_id

    def holds(self, position: int) -> bool:
        """Whether every message behind the position is still here."""
        return self._oldest_position <= position <= self.newest_id

    def next_behind(self, position: int) -> Message | None:
        """The first message behind the position that is here."""
        return next((message for message in self._messages if message.id > position), None)

    async def wait_behind(self, position: int) -> None:
        """Until there is a message behind the position."""
        async with self._has_news:
            await self._has_news.wait_for(lambda: self.newest_id > position)


class Broadcaster:
    """Follows the default run and sends its news to the readers."""

    def __init__(self, views: Views, ring: Ring | None = None) -> None:
        self._views = views
        self._ring = ring or Ring()
        self._history: RunHistory | None = None
        self._num_readers = 0
        self._status_at = 0.0
        self._message_at = 0.0
        self._left_at = -GRACE_SECONDS

    @property
    def newest_id(self) -> int:
        """Of the messages so far."""
        return self._ring.newest_id

    async def serve(self) -> None:
        """Until cancelled."""
        while True:
            await self.tick()
            await asyncio.sleep(TICK_SECONDS)

    async def tick(self) -> None:
        """Read what is new, and send it to the readers."""
        try:
            view = await self._views.of()
        except NoSuchRunError:
            return
        news = view.history.take_news()
        if view.history is not self._history:  # its lines so far are history, not news
            is_first, self._history = self._history is None, view.history
            if not is_first:
                await self._send("reset", {"run": view.history.name})
        elif self._num_readers or time.monotonic() - self._left_at < GRACE_SECONDS:
            await self._send_news(view, news)
        elif news:
            self._ring.break_off()

    async def _send_news(self, view: View, news: News) -> None:
        if news.is_replaced:
            await self._send("reset", {"run": view.history.name})
        bars = [bar_of(window, view.history.journal) for window in news.windows.values()]
        for event, name, entries in (
            ("events", "items", [event_of(event).model_dump(mode="json") for event in news.events]),
            ("evaluations", "lines", [finite(line) for line in news.evaluations]),
            ("steps", "lines", [finite(line) for line in news.steps]),
            ("windows", "bars", bars),
        ):
            for first in range(0, len(entries), MAX_ENTRIES):
                await self._send(event, {name: entries[first : first + MAX_ENTRIES]})
                await self._status(view)
        await self._status(view)

    async def _status(self, view: View) -> None:
        """Once a second."""
        if time.monotonic() - self._status_at >= STATUS_SECONDS:
            self._status_at = time.monotonic()
            await self._send("status", status_of(view).model_dump(mode="json"))

    async def _send(self, event: str, data: Any) -> None:
        wait = self._message_at + SECONDS_BETWEEN_MESSAGES - time.monotonic()
        if wait > 0:
            await asyncio.sleep(wait)
        self._message_at = time.monotonic()
        await self._ring.add(event, data)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """One of the places for readers, until the end of the block. Raises `TooManyReadersError` at once."""
        if self._num_readers >= MAX_READERS:
            raise TooManyReadersError(f"the stream has {MAX_READERS} readers, as many as it serves")
        self._num_readers += 1
        try:
            yield
        finally:
            self._num_readers -= 1
            self._left_at = time.monotonic()

    async def messages(self, last_id: int | None) -> AsyncGenerator[Message, None]:
        """For a reader within `reading`: everything after `last_id`, or after now, until cancelled."""
        ring = self._ring
        position = ring.newest_id if last_id is None else last_id
        while True:
            if not ring.holds(position):
                position = ring.newest_id
                yield Message(position, "reset", "{}")
            await ring.wait_behind(position)
            message = ring.next_behind(position)
            if message is not None and ring.holds(position):
                position = message.id
                yield message
                await asyncio.sleep(SECONDS_BETWEEN_MESSAGES)
