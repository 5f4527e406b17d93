"""The dashboard's real parts, built and served.

Loops, all in one event loop; the first that ends unexpectedly ends the process:

* the web server: answers requests, until SIGTERM.
* `Observer.serve`: once a second, Redis -> the newest observation.          (with a run's configuration only)
* `Broadcaster.serve`: four times a second, the run's folder -> messages for the readers of the stream.
* `_beat`: once a second, this process' presence and the alerts -> Redis.    (with a run's configuration only)
"""

import asyncio
import logging
import socket
import sys
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from services.dashboard.api.access import Access
from services.dashboard.api.app import create_app
from services.dashboard.api.routes.join import JoinAnswer, Joining
from services.dashboard.history.catalog import Catalog, NoSuchRunError, is_run
from services.dashboard.live.source import Observer, RedisSource
from services.dashboard.live.status import alerts_of
from services.dashboard.live.stream import Broadcaster
from services.dashboard.live.view import Views
from tppo.config import Config, ConfigError, dump
from tppo.config.sections.services import DASHBOARD_PORTS
from tppo.process.cancellation import cancel_all
from tppo.process.listening import first_free, listener
from tppo.process.presence import announce, beat, this_process
from tppo.process.shell import on_stop_signal
from tppo.process.web_server import QuietlyEndingServer, server_settings
from tppo.run_folder.json_files import DamagedFileError, read_object
from tppo.run_folder.paths import RunPaths
from tppo.security.authentication import (
    Service,
    Token,
    require_token_beyond_loopback,
    token_from_environment,
)
from tppo.security.envelope import Writer
from tppo.security.private_files import new_secret
from tppo.security.record_keys import record_key, sealer
from tppo.security.redis_address import join_redis_url_from_environment
from tppo.security.rotating_token import rotating_metrics_token, served_client_token, served_token
from tppo.security.tls import web_scheme
from tppo.streams import StreamsError
from tppo.streams.connection import without_password

MAX_ANNOUNCED = 20
"""Alerts in a heartbeat."""
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ServingOptions:
    """What is shown, and where."""

    root: Path
    """Folder of the runs."""
    host: str
    port: int | None
    """0: any free one; None: the first free one of the default's."""
    name: str
    fd: int | None = None
    """Of a socket that listens already, and takes the place of host and port."""
    config: Config | None = None
    """Of the live run; None: a folder of runs is browsed."""


async def serve(options: ServingOptions) -> None:
    """Until SIGTERM."""
    stopping = asyncio.Event()
    on_stop_signal(stopping.set)  # before the address is known: who has read it may end this process at once
    access, catalog, config = _access(options), _catalog(options), options.config
    with _listener(options) as opened:
        log.info("dashboard at %s%s", _url(opened), _how_to_steer(options, access))
        source = await _source(config) if config else None
        observer = Observer(source) if source else None
        views = Views(catalog, observer)
        broadcaster = Broadcaster(views)
        joining = _joining(config) if config else None
        app = create_app(views, broadcaster, access=access, source=source, joining=joining, name=options.name)
        server = QuietlyEndingServer(server_settings(app))
        # uvicorn takes the signals over and raises them again when it has shut down: no reason to die then.
        on_stop_signal(server.stop)
        if stopping.is_set():
            server.stop()
        loops: list[Coroutine[Any, Any, None]] = [broadcaster.serve()]
        if config and source and observer:
            loops += [observer.serve(), _beat(source, views, config.run.name, options.name, url=_url(opened))]
        try:
            await until_served(server.serve(sockets=[opened]), loops)
        finally:
            if source:
                await source.aclose()


async def until_served(server: Coroutine[Any, Any, None], loops: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Until the server ends; a loop that ends before it takes the process down with its error."""
    serving = asyncio.ensure_future(server)
    beside = [asyncio.ensure_future(loop) for loop in loops]
    done, _ = await asyncio.wait([serving, *beside], return_when=asyncio.FIRST_COMPLETED)
    await cancel_all([serving, *beside])
    for task in done:
        task.result()
    if serving not in done:
        raise RuntimeError("a loop of the dashboard has ended")


def _access(options: ServingOptions) -> Access:
    """Who may look and steer; without a token of the user's, whoever reads the run's folder may steer."""
    given = token_from_environment(Service.DASHBOARD)
    require_token_beyond_loopback(options.host, given)
    return Access(token=_token(options), needs_token_to_look=bool(given), metrics_token=rotating_metrics_token())


def _token(options: ServingOptions) -> Token:
    if options.config:
        try:
            return served_client_token(options.config.run.path, Service.DASHBOARD)
        except ConfigError as error:
            log.warning("nobody can steer the run from here: %s", error)
    return token_from_environment(Service.DASHBOARD) or new_secret()


def _joining(config: Config) -> Joining | None:
    """The answer for a generator that joins; None without a token that could open it."""
    try:
        token = served_token(config.run.path, Service.GENERATION)
        key = record_key(config.run, Writer.GENERATION)
    except ConfigError as error:
        log.warning("no generator can join the run from here: %s", error)
        return None
    without_address = config.model_copy(update={"redis": config.redis.model_copy(update={"url": ""})})
    answer = JoinAnswer(
        run=config.run.name,
        config=dump(without_address),
        redis_url=join_redis_url_from_environment() or config.redis.url,
        model=_architecture(config.model.path / "config.json"),
        record_key=key,
    )
    return Joining(answer, token) if token else None


def _architecture(file: Path) -> dict[str, Any]:
    """Empty where it cannot be read: a generator that joins then compares nothing."""
    try:
        return read_object(file, {}) or {}
    except DamagedFileError as error:
        log.warning("the invitation is without the model's architecture: %s", error)
        return {}


def _how_to_steer(options: ServingOptions, access: Access) -> str:
    """The token goes to a terminal, never to a log, which others may be allowed to read."""
    if access.needs_token_to_look or not options.config:
        return ""
    if sys.stderr.isatty():
        return f"/#token={access.token}"
    return f" (token: {RunPaths(options.config.run.path).token(Service.DASHBOARD)})"


def _catalog(options: ServingOptions) -> Catalog:
    if config := options.config:
        return Catalog(
            options.root,
            live=config.run.name,
            live_settings=config.model_dump(mode="json"),
            responses=config.reward.responses_directory,
        )
    root = options.root.resolve()
    return Catalog(root.parent, chosen=root.name) if is_run(root) else Catalog(root)


def _url(opened: socket.socket) -> str:
    host, port = opened.getsockname()[:2]
    return f"{web_scheme()}://[{host}]:{port}" if ":" in host else f"{web_scheme()}://{host}:{port}"


def _listener(options: ServingOptions) -> socket.socket:
    """The inherited socket, or a new one. Raises `ConfigError`."""
    if options.fd is not None:
        try:
            return socket.socket(fileno=options.fd)
        except OSError as error:
            raise ConfigError(f"--fd {options.fd}: {error.strerror}; expected a socket that listens") from None
    if options.port is None:
        return first_free(options.host, DASHBOARD_PORTS, key="dashboard.port")
    return listener(options.host, options.port, key="dashboard.port")


async def _source(config: Config) -> RedisSource:
    """The run in Redis, whether it answers or not; only an address that can never do is refused."""
    source = RedisSource(
        config.redis.url,
        run=config.run.name,
        lease_seconds=config.redis.lease_seconds,
        sealer=sealer(config.run, Writer.OPERATOR),
    )
    try:
        await source.connected()
    except ValueError as error:
        raise ConfigError(f"redis.url = {without_password(config.redis.url)!r}: {error}") from None
    except StreamsError as error:
        log.warning("Redis does not answer (%s); serving the run's folder alone", error)
    return source


async def _beat(source: RedisSource, views: Views, run: str, name: str, *, url: str) -> None:
    presence = this_process(name, "dashboard")

    async def announce_page() -> None:
        client, _ = await source.connected()
        status = {"url": url, "alerts": await _announced_alerts(views, run)}
        await announce(client, run, replace(presence, status=status))

    await beat(announce_page)


async def _announced_alerts(views: Views, run: str) -> list[dict[str, str]]:
    """For the console of `tppo run`."""
    try:
        found = alerts_of(await views.of(run))
    except NoSuchRunError:  # it has written nothing yet
        return []
    return [{"key": one.key, "severity": one.severity, "text": one.text} for one in found[:MAX_ANNOUNCED]]
