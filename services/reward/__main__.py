"""`tppo reward`: builds the reward service's real parts and runs them."""

import argparse
import asyncio
import json
import logging
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from services.reward.build import Scoring, attach_server, build_worker, require_answer, scoring
from services.reward.commands.conformance.__main__ import main as conformance
from services.reward.reporting.exposed import REWARD_METRICS
from services.reward.reporting.response_log import ResponseLog, Sample
from tppo.config import Config, ConfigError, add_config_arguments, config_from_arguments
from tppo.config.sections.services import RewardSection
from tppo.process.leased_worker import Announce
from tppo.process.shell import Announcer, configure_logging, connected, on_stop_signal, run_until_signalled
from tppo.prometheus import Exporter, serving
from tppo.rollout import RewardRequest
from tppo.scoring.lines import UnreadableLineError, opened, requests_in
from tppo.security.authentication import Service, token_from_environment
from tppo.security.envelope import Writer
from tppo.security.record_keys import sealer
from tppo.security.redis_address import with_redis
from tppo.security.rotating_token import rotating_metrics_token, served_token
from tppo.security.tls import require_tls_or_token
from tppo.streams.redis import RedisStreams

log = logging.getLogger(__name__)

EPILOG = "tppo reward conformance ADDRESS examines a client that offers reward functions."


def main(argv: Sequence[str]) -> int:
    """Serve until SIGTERM; with --check only find out whether the functions load. `conformance` is another program."""
    if argv[:1] == ["conformance"]:
        return conformance(argv[1:])
    parser = argparse.ArgumentParser(prog="tppo reward", description="Score finished responses.", epilog=EPILOG)
    add_config_arguments(parser)
    parser.add_argument(
        "--name", default=f"reward-{socket.gethostname()}-{os.getpid()}", help="of this service, unique in the run"
    )
    parser.add_argument(
        "--standalone",
        action="store_true",
        help="score for clients alone, without a run and its Redis; prints a line of JSON with the address",
    )
    parser.add_argument("--check", action="store_true", help="load the reward functions and exit: 0 good, 2 not")
    parser.add_argument(
        "--score",
        type=Path,
        metavar="FILE.jsonl",
        help="with --check: score these lines, as tppo score reads them, too; - for standard input",
    )
    arguments = parser.parse_args(argv)
    config = config_from_arguments(arguments)
    configure_logging()
    require_tls_or_token(config.reward.host, token_from_environment(Service.REWARD), key="reward.host")
    if arguments.check:
        asyncio.run(_check(config, arguments.score))
        return 0
    if arguments.standalone:
        asyncio.run(_serve_clients(config))
        return 0
    asyncio.run(_serve(with_redis(config), arguments.name))
    return 0


async def _serve_clients(config: Config) -> None:
    stopping = asyncio.Event()
    on_stop_signal(stopping.set)
    token = served_token(config.run.path, Service.REWARD)
    async with (
        scoring(config.reward) as parts,
        attach_server(config.reward, parts, run=config.run.name, token=token) as address,
    ):
        print(json.dumps({"address": address}), flush=True)
        await stopping.wait()


async def _check(config: Config, samples: Path | None) -> None:
    async with scoring(config.reward.model_copy(update={"num_workers": 1})) as parts:
        for request in await asyncio.to_thread(_samples, samples) if samples is not None else ():
            if isinstance(request, UnreadableLineError):
                raise ConfigError(f"{samples}: {request}")
            await require_answer(config.reward, parts.scorer, request)


def _samples(path: Path) -> list[RewardRequest | UnreadableLineError]:
    with opened(path) as lines:
        return list(requests_in(lines))


async def _serve(config: Config, name: str) -> None:
    exporter = Exporter(REWARD_METRICS, run=config.run.name, service=name)
    with serving(config.prometheus, exporter, token=rotating_metrics_token()):
        await _serve_requests(config, name, exporter)


async def _serve_requests(config: Config, name: str, exporter: Exporter) -> None:
    run, token = config.run.name, served_token(config.run.path, Service.REWARD)
    seal = sealer(config.run, Writer.REWARD).seal
    async with connected(config.redis.url) as client, AsyncExitStack() as stack:
        announcer = Announcer(client, exporter, run=run, name=name, kind="reward")
        async with announcer.loading():
            parts = await stack.enter_async_context(scoring(config.reward))
            address = await stack.enter_async_context(attach_server(config.reward, parts, run=run, token=token))
        announcer.serves_at(address)
        responses = ResponseLog(config.responses_path, name, sample=_sample(config.reward))
        queue = RedisStreams(client, run=run, lease_seconds=config.redis.lease_seconds, seal=seal).reward_requests
        announce = _with_more(announcer.announce, parts, responses)
        worker = build_worker(config, name, queue, parts, announce, responses)
        on_stop_signal(worker.stop)  # before the address is known: who has read it may end this process at once
        log.info("users' reward functions may attach at %s", address)
        await run_until_signalled(worker, announcer)


def _sample(section: RewardSection) -> Sample | None:
    return None if section.log_responses else Sample(section.kept_prompts, section.kept_responses_mb * 2**20)


def _with_more(announce: Announce, parts: Scoring, responses: ResponseLog) -> Announce:
    """Adds what the worker itself does not know: users' own processes, and how its log fares."""

    async def announce_status(status: Mapping[str, object]) -> None:
        more = {"attached": parts.attached.status(), "response_log_error": responses.last_error}
        await announce({**status, **more})

    return announce_status


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
