"""`tppo learner`: builds the real things and runs the learner."""

import argparse
import asyncio
import os
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from learner.ranks.place import RankPlace
from learner.ranks.start import leading
from learner.ranks.team import Team
from learner.reporting.conditions import fix_workspace
from learner.reporting.prometheus import LearnerExporter
from tppo.announced_weights import announce_weights
from tppo.config import Config, ConfigError, add_config_arguments, config_from_arguments, dump
from tppo.config.sections.devices import Gpus
from tppo.process.cancellation import TaskGroup, cancel_all
from tppo.process.event_loop import spare_imports_from_collection
from tppo.process.shell import Announcer, configure_logging, connected, on_stop_signal
from tppo.prometheus import serving
from tppo.run_folder.durable import write_atomically
from tppo.run_folder.json_files import DamagedFileError
from tppo.run_folder.paths import RunPaths
from tppo.security.authentication import Service
from tppo.security.envelope import Records, Writer
from tppo.security.record_keys import record_secrets, sealed_records
from tppo.security.redis_address import with_redis
from tppo.security.rotating_token import rotating_metrics_token, served_token
from tppo.streams.connection import RedisClient
from tppo.streams.fence import Fence, FencedError
from tppo.streams.redis import RedisStreams

if TYPE_CHECKING:
    from learner.exchange.peers import Peers
    from learner.persistence.run_identity import RunIdentity
    from learner.reporting.heartbeat import Heartbeat
    from learner.reporting.trackers.contract import TrackerStart
    from learner.reporting.trackers.trackers import Trackers
    from learner.state import LearnerState

ROLL_BACK_EXIT_CODE = 75  # "try again": the restarted learner begins with the rollback
GAVE_UP_EXIT_CODE = 3  # no restart mends it; `tppo run` ends the run with the last line of the log
ReadLine = Callable[[Mapping[str, Any]], None]  # of metrics.jsonl


def main(argv: Sequence[str]) -> int:
    """Exit code 0: the run is over, or was stopped in order; 3: nothing is scored, so it cannot go on."""
    parser = argparse.ArgumentParser(prog="tppo learner", description="Train policy and value model.")
    add_config_arguments(parser)
    parser.add_argument("--name", default="learner", help="name of this process in the status")
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint of the run")
    parser.add_argument("--check", action="store_true", help="check settings and data, and exit")
    parser.add_argument(
        "--first-rows",
        type=Path,
        metavar="FILE.jsonl",
        help="with --check: write the first row of each reward function there, for tppo reward --check --score",
    )
    parser.add_argument(
        "--gpus", type=Gpus.of, metavar="NxGIB", help="with --check: of the machine that the run is for, such as 8x80"
    )
    arguments = parser.parse_args(argv)
    config = config_from_arguments(arguments)
    fix_workspace(config)
    if arguments.check:
        configure_logging()
        _check(config, arguments.first_rows, resume=arguments.resume, gpus=arguments.gpus)
        return 0
    place = RankPlace.of(os.environ, config)
    configure_logging(source="" if place.size == 1 else f"rank {place.rank}")
    if place.rank:
        from learner.follower import follow

        follow(config, place)
    return _lead(with_redis(config), place, arguments, argv)


def _lead(config: Config, place: RankPlace, arguments: argparse.Namespace, argv: Sequence[str]) -> int:
    from learner.reporting.trackers import trackers

    trackers.check(config.trackers)
    refusals: list[Exception] = []
    exit_code = 0
    try:
        with leading(place, config, argv) as team:
            _import(config)
            live = _live(config, team, source=arguments.config, name=arguments.name, resume=arguments.resume)
            exit_code = asyncio.run(live)
    except* (ConfigError, DamagedFileError, FencedError) as group:
        refusals.extend(group.exceptions)
    if refusals:
        raise ConfigError(_sentence(refusals[0]))
    return exit_code


def _import(config: Config) -> None:
    """What is heavy waits until the arguments are known to be right, and holds up no event loop."""
    from transformers.utils.logging import disable_progress_bar

    from tppo.models.denormals import flush_denormals
    from tppo.models.device import torch_device

    flush_denormals()
    import_module("learner.build")
    spare_imports_from_collection()
    disable_progress_bar()  # type: ignore[no-untyped-call]
    for placement in (config.policy_placement, config.value_model_placement):
        torch_device(placement)  # refused before anybody is waited for


def _check(config: Config, first_rows: Path | None, *, resume: bool, gpus: Gpus | None) -> None:
    from learner.preflight import check, request_line

    found = check(config, resume=resume, gpus=gpus)
    if first_rows is not None:
        first_rows.write_text("".join(f"{request_line(row)}\n" for row in found.first_rows), encoding="utf-8")
    for note in found.notes:
        print(note)


def _sentence(refusal: BaseException) -> str:
    """The first one's, where task groups have wrapped it."""
    while isinstance(refusal, BaseExceptionGroup):
        refusal = refusal.exceptions[0]
    return str(refusal)


async def _live(config: Config, team: Team, *, source: Path, name: str, resume: bool) -> int:
    exporter = LearnerExporter(run=config.run.name, service=name)
    with serving(config.prometheus, exporter, token=rotating_metrics_token()):
        return await _live_with(config, exporter, team, source=source, name=name, resume=resume)


async def _live_with(
    config: Config, exporter: LearnerExporter, team: Team, *, source: Path, name: str, resume: bool
) -> int:
    from learner.persistence import run_lease

    records = sealed_records(record_secrets(config.run))
    async with connected(config.redis.url) as client:
        fence = Fence(client, config.run.name, host=socket.gethostname(), lease_seconds=config.redis.lease_seconds)
        identity = await run_lease.acquire(fence, Path(config.run.path))
        streams = RedisStreams(
            client,
            run=config.run.name,
            lease_seconds=config.redis.lease_seconds,
            incarnation=identity.incarnation,
            seal=records.sealer(Writer.LEARNER).seal,
        )
        announcer = Announcer(
            client, exporter, run=config.run.name, name=name, kind="learner", incarnation=identity.incarnation
        )
        async with TaskGroup() as group:
            keeping = group.create_task(run_lease.keep(fence, identity, lambda: streams.position.text), name="lease")
            train = partial(_train, config, identity, client, announcer, exporter, streams, team)
            training = group.create_task(train(source=source, resume=resume, records=records), name="training")
            await asyncio.wait([training])
            await cancel_all([keeping])
        await run_lease.release(fence, identity)
    return training.result()


async def _train(
    config: Config,
    identity: "RunIdentity",
    client: RedisClient,
    announcer: Announcer,
    exporter: LearnerExporter,
    streams: RedisStreams,
    team: Team,
    *,
    source: Path,
    resume: bool,
    records: Records,
) -> int:
    from learner.build import learner_service, make_room
    from learner.persistence import rollback
    from learner.reporting.trackers.trackers import Trackers, feeds

    async with announcer.loading(incarnation=identity.incarnation):
        state = await _loaded(config, identity, streams, team, source=source, resume=resume, records=records)
        start = _tracker_start(config, identity, state.progress.step)  # asks whether a rollback is unfinished
        await make_room(state, identity.folder, streams)
    trackers = Trackers(feeds(config.trackers, start))
    heartbeat = _heartbeat(config, client, announcer, trackers)
    peers = _peers(config, client, heartbeat, (exporter.take_line, trackers.take))
    service = learner_service(config, identity, state, streams, peers)
    on_stop_signal(service.stop)
    async with trackers.running():
        await service.run()
    if service.failures.sentence:
        print(f"tppo learner: {service.failures.sentence}", file=sys.stderr)
        return GAVE_UP_EXIT_CODE
    if (version := service.steering.roll_back_to) is not None:
        rollback.request(identity.folder, version)
        return ROLL_BACK_EXIT_CODE
    if service.step < config.run.total_training_steps and service.steering.is_over(service.step):
        RunPaths(identity.folder).stopped_mark.touch()
    return 0


async def _loaded(
    config: Config,
    identity: "RunIdentity",
    streams: RedisStreams,
    team: Team,
    *,
    source: Path,
    resume: bool,
    records: Records,
) -> "LearnerState":
    from learner.build import load_state
    from learner.persistence import rollback

    await asyncio.to_thread(rollback.apply_requested, identity.folder, identity.incarnation)  # reads a checkpoint
    RunPaths(identity.folder).stopped_mark.unlink(missing_ok=True)
    state = await asyncio.to_thread(load_state, config, identity, resume=resume, team=team, records=records)
    write_settings(config, identity.folder, source=source)  # those of a refused resume are not the run's
    streams.position.note(state.progress.inbox_position)
    if config.run.archive_inbox:
        await asyncio.to_thread(_archive, streams, identity)
    return state


def _tracker_start(config: Config, identity: "RunIdentity", step: int) -> "TrackerStart":
    from learner.persistence import rollback
    from learner.reporting.trackers.contract import TrackerStart

    return TrackerStart(
        folder=str(identity.folder.resolve()),
        run=config.run.name,
        run_id=identity.run_id,
        incarnation=identity.incarnation,
        through_step=step,
        is_rolled_back=rollback.is_unfinished(identity.folder),
        settings=config.model_dump(mode="json", exclude={"redis"}),  # its address may hold a password
    )


def write_settings(config: Config, folder: Path, *, source: Path) -> None:
    """Write `config.toml` for dashboard, replay and resume, unless `tppo run` has started this learner from it.

    Where Redis is belongs to the processes, not to the run; and the address may hold a password.
    """
    target = RunPaths(folder).config
    if source.resolve() != target.resolve():
        without_address = config.redis.model_copy(update={"url": ""})
        write_atomically(target, dump(config.model_copy(update={"redis": without_address})).encode())


def _peers(config: Config, client: RedisClient, heartbeat: "Heartbeat", readers: Sequence[ReadLine]) -> "Peers":
    from learner.exchange.live_peers import GrpcTransport, PresentProcesses
    from learner.exchange.peers import Peers

    processes = PresentProcesses(client, config.run.name)

    def on_metrics_line(line: Mapping[str, Any]) -> None:
        for reader in readers:
            reader(line)

    transport = GrpcTransport(
        partial(announce_weights, client, config.run.name),
        served_token(config.run.path, Service.GENERATION),
    )
    return Peers(
        transport=transport,
        let_sleep=transport.let_sleep,
        announce=heartbeat.announce,
        find_generators=processes.find_generators,
        generation_totals=processes.generation_totals,
        all_processes=processes.all_processes,
        on_metrics_line=on_metrics_line,
    )


def _heartbeat(config: Config, client: RedisClient, announcer: Announcer, trackers: "Trackers") -> "Heartbeat":
    from learner.reporting.heartbeat import Heartbeat

    queues = RedisStreams(client, run=config.run.name, lease_seconds=config.redis.lease_seconds)
    return Heartbeat(announcer.announce, queues, completed=trackers.with_status)


def _archive(streams: RedisStreams, identity: "RunIdentity") -> None:
    """Keep the inbox in the run's folder; Redis may have lost what stands there."""
    from learner.persistence.archive import ArchivedInbox, InboxArchive

    archive = InboxArchive(RunPaths(identity.folder).inbox, require_right=identity.require_current)
    streams.position.note(archive.last)
    streams.inbox = ArchivedInbox(streams.inbox, archive)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
