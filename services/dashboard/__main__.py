"""`tppo dashboard`: builds the status page's real parts and serves them.

`_beat`: once a second, this process' presence -> Redis. Everything else is the web server's.
"""

import argparse
import asyncio
import logging
import os
import signal
import socket
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tppo.config import Config, ConfigError, add_config_arguments, config_from_arguments

if TYPE_CHECKING:
    import redis.asyncio

SHUTDOWN_SECONDS = 3
log = logging.getLogger(__name__)


def main(argv: Sequence[str]) -> int:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(prog="tppo dashboard", description="Status of a run over REST.")
    add_config_arguments(parser)
    parser.add_argument("--name", default="dashboard", help="name of this process in the status")
    arguments = parser.parse_args(argv)
    config = config_from_arguments(arguments)
    if not config.redis.url:
        raise ConfigError("redis.url is empty; expected the address of a Redis server, as in --redis redis://HOST:6379")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    asyncio.run(_serve(config, arguments.name))
    return 0


async def _serve(config: Config, name: str) -> None:
    import uvicorn

    from services.dashboard.app import create_app
    from services.dashboard.source import RunSource
    from tppo.authentication import require_token_beyond_loopback, token_from_environment
    from tppo.streams import RedisStreams

    token = token_from_environment()
    require_token_beyond_loopback(config.dashboard.host, token)
    with _listener(config.dashboard.host, config.dashboard.port) as listener:
        async with await _redis(config.redis.url) as client:
            run = config.run
            streams = RedisStreams(client, run=run.name, lease_seconds=config.redis.lease_seconds)
            source = RunSource(client, streams, run=run.name, metrics=run.path / "metrics.jsonl")
            app = create_app(source, run=run.name, total_training_steps=run.total_training_steps, token=token)
            settings = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=SHUTDOWN_SECONDS)
            for number in (signal.SIGTERM, signal.SIGINT):
                # uvicorn takes the signals over and raises them again when it has shut down: no reason to die then.
                asyncio.get_running_loop().add_signal_handler(number, lambda: None)
            beating = asyncio.create_task(_beat(client, run.name, name, listener))
            await uvicorn.Server(settings).serve(sockets=[listener])
            beating.cancel()


def _listener(host: str, port: int) -> socket.socket:
    """A socket that listens, or one sentence why not."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family)
    except OSError as error:
        reason = f"cannot listen on {host}: {error.strerror}"
        raise ConfigError(f"dashboard.port = {port}: {reason}; expected a free port") from None
    log.info("status at http://%s:%d", host, listener.getsockname()[1])
    return listener


async def _redis(url: str) -> "redis.asyncio.Redis":
    """A client, as soon as the server answers."""
    from tppo.patience import until_redis_answers
    from tppo.streams import connect

    try:
        return await until_redis_answers(lambda: connect(url), "connecting")
    except ValueError as error:
        raise ConfigError(f"redis.url = {url!r}: {error}") from None


async def _beat(client: "redis.asyncio.Redis", run: str, name: str, listener: socket.socket) -> None:
    from redis.exceptions import RedisError

    from tppo.presence import HEARTBEAT_SECONDS, Presence, announce

    host, port = listener.getsockname()[:2]
    presence = Presence(
        name=name,
        kind="dashboard",
        address="",
        started_at=time.time(),
        pid=os.getpid(),
        host=socket.gethostname(),
        status={"url": f"http://{host}:{port}"},
    )
    while True:
        try:
            await announce(client, run, presence)
        except RedisError as error:
            log.warning("cannot announce: %s; trying again", error)
        await asyncio.sleep(HEARTBEAT_SECONDS)
