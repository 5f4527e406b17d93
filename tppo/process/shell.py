"""The shell of every process of a run: its log, its connection to Redis, its heartbeats, and its orderly end."""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Never, Protocol

from tppo.config import ConfigError
from tppo.process.cancellation import cancel_all
from tppo.process.presence import LOADED, LOADING_KEY, announce, beat, this_process, withdraw
from tppo.prometheus import Exporter
from tppo.streams import StreamsDenied, StreamsError, StreamsUnavailable, until_redis_answers
from tppo.streams.connection import RedisClient, connect, without_password
from tppo.streams.fence import UNFENCED

WITHDRAW_SECONDS = 2.0  # a Redis that does not answer delays no end


def configure_logging(level: int = logging.INFO, *, file: Path | None = None, source: str = "") -> None:
    """One line an event, to standard error or to a file; `source`: which of several processes that write there."""
    origin = f"{source} %(name)s" if source else "%(name)s"
    logging.basicConfig(level=level, filename=file, format=f"%(asctime)s %(levelname)s {origin} %(message)s")


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[RedisClient]:
    """A client, as soon as the server answers. Raises `ConfigError` for an address at which none ever will, and when
    the server refuses the user or the password, now or later.
    """
    try:
        client = await until_redis_answers(lambda: connect(url), "connecting")
    except (ValueError, StreamsError) as error:
        raise ConfigError(refusal(url, error)) from None
    async with client:
        try:
            yield client
        except (StreamsDenied, BaseExceptionGroup) as error:
            denied = error.subgroup(StreamsDenied) if isinstance(error, BaseExceptionGroup) else error
            if denied is None:
                raise
            raise ConfigError(refusal(url, _first(denied))) from error


def refusal(url: str, error: BaseException) -> str:
    """Why no server will do at this address, in a sentence without the password."""
    place = f"redis.url = {without_password(url)!r}"
    if isinstance(error, StreamsDenied):
        return f"{place}: the server refuses the user or password: {error}; expected redis://USER:PASSWORD@HOST:PORT"
    return f"{place}: {error}"


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


class Announcer:
    """Announces this process to its run and to Prometheus."""

    def __init__(
        self,
        client: RedisClient,
        exporter: Exporter,
        *,
        run: str,
        name: str,
        kind: str,
        incarnation: int = UNFENCED,
    ) -> None:
        """A learner names its incarnation."""
        self._client = client
        self._exporter = exporter
        self._run = run
        self._presence = this_process(name, kind)
        self._incarnation = incarnation

    async def announce(self, status: Mapping[str, Any]) -> None:
        """One heartbeat. Whatever Redis does, Prometheus gets the status."""
        exported = replace(self._presence, status=self._exporter.take(status))
        await announce(self._client, self._run, exported, incarnation=self._incarnation)
        self._exporter.note_heartbeat()

    @asynccontextmanager
    async def loading(self, **status: Any) -> AsyncIterator[None]:
        """Heartbeats until the end of the context, which say what is loaded meanwhile; `status`: what else they say.

        A process that cannot load leaves the run.
        """
        of_loading = {LOADING_KEY: LOADED[self._presence.kind], **status}
        beating = asyncio.create_task(beat(lambda: self.announce(of_loading)), name="heartbeat while loading")
        try:
            yield
        except Exception:
            await cancel_all([beating])
            await self.withdraw()
            raise
        finally:
            has_failed = beating.done()
            await cancel_all([beating])
        if has_failed:
            beating.result()

    def serves_at(self, address: str) -> None:
        """From now on heartbeats give the address of its gRPC server."""
        self._presence = replace(self._presence, address=address)

    async def withdraw(self) -> None:
        """An orderly end: the run need not miss three heartbeats first."""
        with suppress(StreamsUnavailable, TimeoutError):
            async with asyncio.timeout(WITHDRAW_SECONDS):
                await withdraw(self._client, self._run, self._presence)


class Stoppable(Protocol):
    """What a process runs."""

    def stop(self) -> None:
        """Take no new work; `run` returns soon."""

    async def run(self) -> None:
        """Until `stop`."""


async def run_until_signalled(service: Stoppable, announcer: Announcer) -> None:
    """Until SIGTERM or Ctrl-C; then the process leaves the run."""
    on_stop_signal(service.stop)
    await service.run()
    await announcer.withdraw()


def on_stop_signal(stop: Callable[[], None]) -> None:
    """Call it at SIGTERM and at Ctrl-C."""
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop)


def leave_threads(exit_code: int = 0) -> Never:
    """End the process, whatever its threads compute.

    For the end of a process whose work is delivered: the interpreter's own end would wait for the hashing of a large
    model's weights, and a thread that is in mid-pass of a model may crash it.
    """
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)
