"""A TCP proxy that mistreats what passes through it; it runs in a thread of its own."""

import asyncio
import contextlib
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from enum import Enum
from typing import Any

CHUNK_BYTES = 2**16
MIDDLE_BYTES = 200_000  # about half of the quick start's weights


class Mood(Enum):
    """What the proxy does to its connections."""

    PASS = "pass"
    DELAY = "delay"  # every chunk waits, both ways
    CUT = "cut"  # no connection lives
    CUT_IN_THE_MIDDLE = "cut in the middle"  # a connection ends when so much has been sent
    BLACK_HOLE = "black hole"  # connections live and nothing passes
    DROP_REPLIES = "drop replies"  # commands pass; instead of the reply the connection ends


class Proxy:
    """Between everybody and one server."""

    def __init__(
        self, target_port: int, *, delay_seconds: float = 0.05, host: str = "127.0.0.1", port: int = 0
    ) -> None:
        self._target_port = target_port
        self._address = host, port
        self._delay_seconds = delay_seconds
        self._mood = Mood.PASS
        self._passing = asyncio.Event()
        self._connections: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server: asyncio.Server = self._call(self._start())
        self.port: int = self._server.sockets[0].getsockname()[1]

    @contextmanager
    def in_mood(self, mood: Mood) -> Iterator[None]:
        """For as long as the block lasts."""
        self._call(self._set(mood))
        try:
            yield
        finally:
            self._call(self._set(Mood.PASS))

    def lead_to(self, target_port: int) -> None:
        """New connections reach another server, as when a name is given to it."""
        self._target_port = target_port

    def close(self) -> None:
        """End every connection and the thread."""
        self._call(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _call(self, action: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(action, self._loop).result(timeout=30)

    async def _start(self) -> asyncio.Server:
        self._passing.set()
        return await asyncio.start_server(self._accept, *self._address)

    async def _set(self, mood: Mood) -> None:
        self._mood = mood
        if mood is Mood.BLACK_HOLE:
            self._passing.clear()
        else:
            self._passing.set()
        if mood is Mood.CUT:
            await self._end_connections()

    async def _stop(self) -> None:
        self._server.close()
        await self._end_connections()

    async def _end_connections(self) -> None:
        for task in list(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        with contextlib.suppress(OSError, asyncio.CancelledError):  # the target may not be there yet
            if self._mood is not Mood.CUT:
                await self._forward(reader, writer)
        self._connections.discard(task)
        writer.close()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
        directions = [
            asyncio.create_task(self._pump(reader, server_writer, is_reply=False)),
            asyncio.create_task(self._pump(server_reader, writer, is_reply=True)),
        ]
        try:
            await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for direction in directions:
                direction.cancel()
            server_writer.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_reply: bool) -> None:
        """Until either side ends, or a reply is to be dropped, or the middle is reached."""
        num_sent = 0
        with contextlib.suppress(OSError):
            while chunk := await reader.read(CHUNK_BYTES):
                await self._passing.wait()
                if self._mood is Mood.DELAY:
                    await asyncio.sleep(self._delay_seconds)
                if is_reply and self._mood is Mood.DROP_REPLIES:
                    return
                num_sent = num_sent + len(chunk) if self._mood is Mood.CUT_IN_THE_MIDDLE else 0
                if num_sent > MIDDLE_BYTES:
                    return
                writer.write(chunk)
                await writer.drain()
