"""`tppo learner`: builds the real things and runs one life of the learner."""

import argparse
import asyncio
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import redis.asyncio

from learner.reporting.prometheus import LearnerExporter
from tppo import presence
from tppo.authentication import call_metadata, token_from_environment
from tppo.cancellation import TaskGroup, cancel_all
from tppo.config import Config, ConfigError, add_config_arguments, config_from_arguments, dump
from tppo.fence import Fence, FencedError
from tppo.patience import until_redis_answers
from tppo.prometheus import serving
from tppo.run_folder.durable import write_atomically
from tppo.run_folder.paths import RunPaths
from tppo.streams import RedisStreams, Streams, connect

if TYPE_CHECKING:
    from learner.exchange.peers import Peers
    from learner.persistence.run_identity import RunIdentity
    from learner.reporting.heartbeat import Announcement
    from learner.reporting.trackers.trackers import Trackers

ROLL_BACK_EXIT_CODE = 75  # "try again": the next life begins with the roll back
Tell = Callable[[Mapping[str, Any]], None]  # takes a line of metrics.jsonl
REMEMBERED_SECONDS = 24 * 3600.0  # a service silent for this long is no longer spoken of


def main(argv: Sequence[str]) -> int:
    """Exit code 0: the run is over, or was stopped in order."""
    parser = argparse.ArgumentParser(prog="tppo learner", description="Train policy and value model.")
    add_config_arguments(parser)
    parser.add_argument("--name", default="learner", help="name of this process in the status")
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint of the run")
    parser.add_argument("--check", action="store_true", help="check settings and data, and exit")
    arguments = parser.parse_args(argv)
    config = config_from_arguments(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    if arguments.check:
        from learner.preflight import check

        check(config)
        return 0
    if not config.redis.url:
        raise ConfigError("redis.url is empty; expected the address of a Redis server, as in --redis redis://HOST:6379")
    from learner.reporting.trackers import trackers

    trackers.check(config.trackers)
    # Heavy imports wait until the arguments are known to be right.
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # type: ignore[no-untyped-call]
    refusals: list[Exception] = []
    exit_code = 0
    try:
        live = _live(config, source=arguments.config, name=arguments.name, resume=arguments.resume)
        exit_code = asyncio.run(live)
    except* (ConfigError, FencedError) as group:
        refusals.extend(group.exceptions)
    if refusals:
        raise ConfigError(_sentence(refusals[0]))
    return exit_code


def _sentence(refusal: BaseException) -> str:
    """The first one's, where task groups have wrapped it."""
    while isinstance(refusal, BaseExceptionGroup):
        refusal = refusal.exceptions[0]
    return str(refusal)


async def _live(config: Config, *, source: Path, name: str, resume: bool) -> int:
    exporter = LearnerExporter(run=config.run.name, service=name)
    with serving(config.prometheus, exporter, token=token_from_environment()):
        return await _live_with(config, exporter, source=source, name=name, resume=resume)


async def _live_with(config: Config, exporter: LearnerExporter, *, source: Path, name: str, resume: bool) -> int:
    from learner.persistence import run_lease

    try:
        client = await until_redis_answers(lambda: connect(config.redis.url), "connecting")
    except ValueError as error:
        raise ConfigError(str(error)) from None
    async with client:
        fence = Fence(client, config.run.name, host=socket.gethostname(), lease_seconds=config.redis.lease_seconds)
        identity = await run_lease.begin_only_life(fence, Path(config.run.path))
        write_settings(config, identity.folder, source=source)
        async with TaskGroup() as group:
            keeping = group.create_task(run_lease.keep(fence, identity), name="lease")
            training = group.create_task(
                _train(config, identity, client, exporter, name=name, resume=resume), name="training"
            )
            await asyncio.wait([training])
            await cancel_all([keeping])
        await fence.release(identity.incarnation)
    return training.result()


async def _train(
    config: Config,
    identity: "RunIdentity",
    client: redis.asyncio.Redis,
    exporter: LearnerExporter,
    *,
    name: str,
    resume: bool,
) -> int:
    from learner.build import Assembly
    from learner.persistence import rollback
    from learner.reporting.trackers.trackers import Trackers, feeds

    rollback.fulfil_wish(identity.folder, identity.incarnation)
    RunPaths(identity.folder).stopped_mark.unlink(missing_ok=True)
    assembly = await asyncio.to_thread(Assembly, config, identity, resume=resume)
    streams = _streams(config, identity, client)
    is_rolled_back = rollback.is_pending(identity.folder)
    trackers = Trackers(feeds(config, identity, through_step=assembly.step, is_rolled_back=is_rolled_back))
    announcement = _announcement(config, identity, client, exporter, trackers, name=name)
    await assembly.discard_what_was_rolled_back(streams)
    service = assembly.service(streams, _outside(config, client, announcement, (exporter.take_line, trackers.take)))
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signal_number, service.stop)
    async with trackers.running():
        await service.run()
    if (version := service.steering.roll_back_to) is not None:
        rollback.wish(identity.folder, version)
        return ROLL_BACK_EXIT_CODE
    if service.step < config.run.total_training_steps and service.steering.is_over(service.step):
        RunPaths(identity.folder).stopped_mark.touch()
    return 0


def write_settings(config: Config, folder: Path, *, source: Path) -> None:
    """Write `config.toml` for dashboard, replay and resume, unless `tppo run` has started this learner from it.

    Where Redis is belongs to the processes, not to the run; and the address may hold a password.
    """
    target = RunPaths(folder).config
    if source.resolve() != target.resolve():
        without_address = config.redis.model_copy(update={"url": ""})
        write_atomically(target, dump(config.model_copy(update={"redis": without_address})).encode())


def _outside(
    config: Config,
    client: redis.asyncio.Redis,
    announcement: "Announcement",
    readers: Sequence[Tell],
) -> "Peers":
    """The other processes, found by their presence."""
    from learner.exchange.grpc_transport import GrpcTransport
    from learner.exchange.peers import Peers
    from learner.exchange.weight_publisher import FoundGenerator
    from tppo.generation_totals import GenerationLedger, GenerationTotals

    async def find_generators() -> Mapping[str, FoundGenerator]:
        everyone = await presence.present(client, config.run.name)
        generators = [one for one in everyone if one.kind == "generation" and one.address]
        return {one.name: FoundGenerator(one.address, one.started_at) for one in generators}

    generators = GenerationLedger()

    async def generation_totals() -> GenerationTotals:
        generators.observe_all(await presence.present(client, config.run.name))
        return generators.totals()

    async def everyone() -> list[presence.Presence]:
        return await presence.present(client, config.run.name, gone_after_seconds=REMEMBERED_SECONDS)

    def tell(line: Mapping[str, Any]) -> None:
        for reader in readers:
            reader(line)

    return Peers(
        transport=GrpcTransport(call_metadata(token_from_environment())),
        announce=announcement.announce,
        find_generators=find_generators,
        generation_totals=generation_totals,
        everyone=everyone,
        on_metrics_line=tell,
    )


def _announcement(
    config: Config,
    identity: "RunIdentity",
    client: redis.asyncio.Redis,
    exporter: LearnerExporter,
    trackers: "Trackers",
    *,
    name: str,
) -> "Announcement":
    from learner.reporting.heartbeat import Announcement

    me = presence.Presence(
        name=name, kind="learner", address="", started_at=time.time(), pid=os.getpid(), host=socket.gethostname()
    )
    queues = RedisStreams(client, run=config.run.name, lease_seconds=config.redis.lease_seconds)
    return Announcement(
        client,
        config.run.name,
        me,
        exporter,
        queues,
        incarnation=identity.incarnation,
        completed=trackers.with_status,
    )


def _streams(config: Config, identity: "RunIdentity", client: redis.asyncio.Redis) -> Streams:
    from learner.persistence.archive import ArchivedInbox, InboxArchive

    streams = RedisStreams(
        client, run=config.run.name, lease_seconds=config.redis.lease_seconds, incarnation=identity.incarnation
    )
    if config.run.archive_inbox:
        archive = InboxArchive(RunPaths(identity.folder).inbox, require_right=identity.require_current)
        streams.inbox = ArchivedInbox(streams.inbox, archive)
    return streams


if __name__ == "__main__":
    import sys

    raise SystemExit(main(sys.argv[1:]))
