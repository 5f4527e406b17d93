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

from services.reward.build import Scoring, placed, scoring, serving
from services.reward.commands.conformance.__main__ import main as conformance
from services.reward.reporting.exposed import REWARD_METRICS
from services.reward.reporting.response_log import ResponseLog
from services.reward.service import Announce, RewardService, ServiceSettings
from services.reward.verifiers.placement import Place
from tppo.authentication import token_from_environment
from tppo.config import Config, ConfigError, add_config_arguments, config_from_arguments
from tppo.presence import Presence, announce, withdraw
from tppo.prometheus import Exporter
from tppo.prometheus import serving as serving_metrics
from tppo.streams import RedisClient, RedisStreams, StreamsUnavailable, connect, until_redis_answers
from tppo.tls import require_tls_or_token

log = logging.getLogger(__name__)

EPILOG = "tppo reward conformance ADDRESS examines a client that offers reward functions."
BATCH_CAPACITY = 256  # requests held when it is not workers alone that score
HELD_PER_WORKER = 2  # one that it scores and one that waits for it; more would keep work from other services


def main(argv: Sequence[str]) -> int:
    """Serve until SIGTERM; with --check only find out whether the functions load. `conformance` is another program."""
    if argv[:1] == ["conformance"]:
        return conformance(argv[1:])
    parser = argparse.ArgumentParser(prog="tppo reward", description="Score finished responses.", epilog=EPILOG)
    add_config_arguments(parser)
    parser.add_argument("--name", default=f"reward-{socket.gethostname()}-{os.getpid()}", help="this service's own")
    parser.add_argument("--check", action="store_true", help="load the reward functions and exit: 0 good, 2 not")
    arguments = parser.parse_args(argv)
    config = config_from_arguments(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    require_tls_or_token(config.reward.host, token_from_environment(), key="reward.host")
    asyncio.run(_check(config) if arguments.check else _serve(config, arguments.name))
    return 0


async def _check(config: Config) -> None:
    async with scoring(config.reward.model_copy(update={"num_workers": 1})):
        pass


async def _serve(config: Config, name: str) -> None:
    exporter = Exporter(REWARD_METRICS, run=config.run.name, service=name)
    with serving_metrics(config.prometheus, exporter, token=token_from_environment()):
        await _serve_with(config, name, exporter)


async def _serve_with(config: Config, name: str, exporter: Exporter) -> None:
    async with (
        scoring(config.reward) as parts,
        _redis(config) as client,
        serving(config.reward, parts, run=config.run.name) as reachable_at,
    ):
        log.info("users' reward functions may attach at %s", reachable_at)
        responses = ResponseLog(config.run.path, name)
        announcement = _announcement(client, config.run.name, _presence(name, reachable_at), exporter)
        service = RewardService(
            _settings(config, name),
            RedisStreams(client, run=config.run.name, lease_seconds=config.redis.lease_seconds).reward_requests,
            parts.scorer,
            announce=_with_more(announcement, parts, responses),
            **({"log_response": responses.append} if config.reward.log_responses else {}),
        )
        for signum in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(signum, service.stop)
        await service.run()
        with suppress(StreamsUnavailable):
            await withdraw(client, config.run.name, name)


@asynccontextmanager
async def _redis(config: Config) -> AsyncIterator[RedisClient]:
    if not config.redis.url:
        raise ConfigError("redis.url is empty; expected redis://host:port/db, or --redis URL")
    try:
        client = await until_redis_answers(lambda: connect(config.redis.url), "connecting")
    except ValueError as error:
        raise ConfigError(f"redis.url = {config.redis.url!r}: {error}") from None
    async with client:
        yield client


def _settings(config: Config, name: str) -> ServiceSettings:
    return ServiceSettings(
        name,
        lease_seconds=config.redis.lease_seconds,
        capacity=_capacity(config),
        max_deliveries=config.redis.max_deliveries,
    )


def _capacity(config: Config) -> int:
    """Requests held at once: a batch, unless workers alone decide how fast it goes."""
    is_for_workers = placed(config.reward, Place.WORKER) and not placed(config.reward, Place.ATTACHED)
    return HELD_PER_WORKER * config.reward.num_workers if is_for_workers else BATCH_CAPACITY


def _presence(name: str, reachable_at: str) -> Presence:
    return Presence(
        name,
        kind="reward",
        address=reachable_at,
        started_at=time.time(),
        pid=os.getpid(),
        host=socket.gethostname(),
    )


def _announcement(client: RedisClient, run: str, presence: Presence, exporter: Exporter) -> Announce:
    """Tells the run who this service is and what it does."""

    async def announce_status(status: Mapping[str, object]) -> None:
        await announce(client, run, dataclasses.replace(presence, status=exporter.take(status)))
        exporter.note_heartbeat()

    return announce_status


def _with_more(announcement: Announce, parts: Scoring, responses: ResponseLog) -> Announce:
    """Adds what the service itself does not know: users' own processes, and how its log fares."""

    async def announce_status(status: Mapping[str, object]) -> None:
        more = {"attached": parts.attached.status(), "response_log_error": responses.last_error}
        await announcement({**status, **more})

    return announce_status


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
