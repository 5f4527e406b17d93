"""`tppo generation`: builds the generator's real parts and runs them."""

import argparse
import asyncio
import dataclasses
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

from services.generation.exposed import GENERATION_METRICS
from tppo.authentication import token_from_environment
from tppo.config import Config, ConfigError, add_config_arguments, config_from_arguments
from tppo.presence import Presence, announce, withdraw
from tppo.prometheus import Exporter, serving
from tppo.streams import RedisClient, RedisStreams, StreamsUnavailable, connect, until_redis_answers
from tppo.tls import require_tls_or_token

if TYPE_CHECKING:  # torch and transformers are imported when the arguments are known to be right
    from services.generation.engine import Engine
    from services.generation.service import Announce, ServiceSettings
    from services.generation.weight_intake import WeightIntake

log = logging.getLogger(__name__)

GOODBYE_SECONDS = 1.0  # for a weight transfer that is under way when the process stops


def main(argv: Sequence[str]) -> int:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(prog="tppo generation", description="Sample responses, window by window.")
    add_config_arguments(parser)
    parser.add_argument("--name", default=f"generation-{socket.gethostname()}-{os.getpid()}", help="this one's own")
    arguments = parser.parse_args(argv)
    config = config_from_arguments(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    require_tls_or_token(config.generation.host, token_from_environment(), key="generation.host")
    if not (config.model.path / "config.json").is_file():
        raise ConfigError(f"model.path = {config.model.path}: no config.json there; expected a model's folder")
    if not config.redis.url:
        raise ConfigError("redis.url is empty; expected redis://host:port/db, or --redis URL")
    asyncio.run(_serve(config, arguments.name))
    return 0


async def _serve(config: Config, name: str) -> None:
    exporter = Exporter(GENERATION_METRICS, run=config.run.name, service=name)
    with serving(config.prometheus, exporter, token=token_from_environment()):
        await _serve_with(config, name, exporter)


async def _serve_with(config: Config, name: str, exporter: Exporter) -> None:
    from services.generation.served_weights import ServedWeights
    from services.generation.service import GenerationService
    from services.generation.weight_intake import WeightIntake

    async with _engine(config) as engine, _redis(config.redis.url) as client:
        weights = ServedWeights(engine)
        intake = WeightIntake(engine, weights, run=config.run.name, name=name)
        async with _server(config, intake) as reachable_at:
            log.info("%s takes weights at %s", name, reachable_at)
            service = GenerationService(
                _settings(config, name),
                RedisStreams(client, run=config.run.name, lease_seconds=config.redis.lease_seconds).window_requests,
                engine,
                weights,
                _announcement(client, config.run.name, _presence(name, reachable_at), exporter),
            )
            for signum in (signal.SIGTERM, signal.SIGINT):
                asyncio.get_running_loop().add_signal_handler(signum, service.stop)
            await service.run()
            with suppress(StreamsUnavailable):
                await withdraw(client, config.run.name, name)


def _settings(config: Config, name: str) -> "ServiceSettings":
    from services.generation.service import ServiceSettings

    capacity = config.generation.num_slots + config.generation.num_prefetched
    return ServiceSettings(
        name,
        lease_seconds=config.redis.lease_seconds,
        capacity=capacity,
        max_deliveries=config.redis.max_deliveries,
    )


@asynccontextmanager
async def _engine(config: Config) -> "AsyncIterator[Engine]":
    from services.generation.transformers_engine.build import build_engine

    try:
        engine = build_engine(config)
    except (OSError, ValueError) as error:
        raise ConfigError(f"model.path = {config.model.path}: {error}") from None
    try:
        yield engine
    finally:
        await engine.close()


@asynccontextmanager
async def _redis(url: str) -> AsyncIterator[RedisClient]:
    try:
        client = await until_redis_answers(lambda: connect(url), "connecting")
    except ValueError as error:
        raise ConfigError(f"redis.url = {url!r}: {error}") from None
    async with client:
        yield client


@asynccontextmanager
async def _server(config: Config, intake: "WeightIntake") -> AsyncIterator[str]:
    """Runs the gRPC server; gives the address by which others reach it."""
    from services.generation.server import start_server
    from tppo.grpc_server import address, reachable

    section = config.generation
    server, port = await start_server(intake, host=section.host, port=section.port, token=token_from_environment())
    try:
        yield address(section.advertise_host or reachable(section.host), port)
    finally:
        await server.stop(GOODBYE_SECONDS)


def _presence(name: str, reachable_at: str) -> Presence:
    return Presence(
        name,
        kind="generation",
        address=reachable_at,
        started_at=time.time(),
        pid=os.getpid(),
        host=socket.gethostname(),
    )


def _announcement(client: RedisClient, run: str, presence: Presence, exporter: Exporter) -> "Announce":
    """Tells the run who this generator is, where it takes weights, and what it does."""

    async def announce_status(status: Mapping[str, object]) -> None:
        await announce(client, run, dataclasses.replace(presence, status=exporter.take(status)))
        exporter.note_heartbeat()

    return announce_status


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
