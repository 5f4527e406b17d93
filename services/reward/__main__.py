"""`tppo reward`: builds the reward service's real parts and runs them."""

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

from redis.asyncio import Redis

from services.reward.functions import check, runs_inline
from services.reward.pool import WorkerPool
from services.reward.retry import REDIS_ERRORS, until_redis_answers
from services.reward.scorer import Scorer
from services.reward.service import Announce, RewardService, ServiceSettings
from tppo.config import Config, ConfigError, add_config_arguments, config_from_arguments
from tppo.presence import Presence, announce, withdraw
from tppo.streams import RedisStreams, connect

INLINE_CAPACITY = 256  # requests held when no function needs a worker: one batch
HELD_PER_WORKER = 2  # one that it scores and one that waits for it; more would keep work from other services


def main(argv: Sequence[str]) -> int:
    """Serve until SIGTERM; with --check only find out whether the functions load."""
    parser = argparse.ArgumentParser(prog="tppo reward", description="Score finished responses.")
    add_config_arguments(parser)
    parser.add_argument("--name", default=f"reward-{socket.gethostname()}-{os.getpid()}", help="this service's own")
    parser.add_argument("--check", action="store_true", help="load the reward functions and exit: 0 good, 2 not")
    arguments = parser.parse_args(argv)
    config = config_from_arguments(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    asyncio.run(_check(config) if arguments.check else _serve(config, arguments.name))
    return 0


async def _check(config: Config) -> None:
    async with _workers(config, num_workers=1):
        pass


async def _serve(config: Config, name: str) -> None:
    async with _workers(config, num_workers=config.reward.num_workers) as pool, _redis(config) as client:
        streams = RedisStreams(client, run=config.run.name, lease_seconds=config.redis.lease_seconds)
        service = RewardService(
            ServiceSettings(name, lease_seconds=config.redis.lease_seconds, capacity=_capacity(config)),
            streams.reward_requests,
            Scorer(config.reward.functions, config.reward.default_function, pool),
            _announcement(client, config.run.name, name),
        )
        for signum in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(signum, service.stop)
        await service.run()
        with suppress(*REDIS_ERRORS):
            await withdraw(client, config.run.name, name)


@asynccontextmanager
async def _workers(config: Config, *, num_workers: int) -> AsyncIterator[WorkerPool]:
    """A pool that knows the functions that need a worker; without any it has no processes."""
    specs = _worker_specs(config)
    pool = WorkerPool(
        specs,
        num_workers=num_workers if specs else 0,
        timeout_seconds=config.reward.timeout_seconds,
        memory_limit_bytes=config.reward.memory_limit_mb * 2**20,
    )
    try:
        await _start(pool)
        yield pool
    finally:
        await pool.close()


async def _start(pool: WorkerPool) -> None:
    try:
        await pool.start()
    except ValueError as error:
        raise ConfigError(f"[reward] {error}") from None


@asynccontextmanager
async def _redis(config: Config) -> AsyncIterator[Redis]:
    if not config.redis.url:
        raise ConfigError("redis.url is empty; expected redis://host:port/db, or --redis URL")
    try:
        client = await until_redis_answers(lambda: connect(config.redis.url), "connecting")
    except ValueError as error:
        raise ConfigError(f"redis.url = {config.redis.url!r}: {error}") from None
    async with client:
        yield client


def _worker_specs(config: Config) -> list[str]:
    """The functions that need a worker; the others are loaded here and now."""
    named = sorted({*config.reward.functions.values(), config.reward.default_function} - {""})
    try:
        inline = [spec for spec in named if runs_inline(spec)]
        for spec in inline:
            check(spec)
    except ValueError as error:
        raise ConfigError(f"[reward] {error}") from None
    return [spec for spec in named if spec not in inline]


def _capacity(config: Config) -> int:
    return HELD_PER_WORKER * config.reward.num_workers if _worker_specs(config) else INLINE_CAPACITY


def _announcement(client: Redis, run: str, name: str) -> Announce:
    """Tells the run who this service is and what it does."""
    presence = Presence(
        name, kind="reward", address="", started_at=time.time(), pid=os.getpid(), host=socket.gethostname()
    )

    async def announce_status(status: Mapping[str, object]) -> None:
        await announce(client, run, dataclasses.replace(presence, status=dict(status)))

    return announce_status


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
