"""What scores, built from `[reward]`: workers, the users' processes, and the server to which they attach."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc.aio

from services.reward.attached.functions import AttachDeadlines, AttachedFunctions
from services.reward.attached.rpc import SERVICE_NAME, RewardServicer
from services.reward.scorer import Scorer
from services.reward.verifiers.functions import load
from services.reward.verifiers.placement import Place, specs_at
from services.reward.workers.pool import WorkerPool
from tppo.authentication import token_from_environment
from tppo.config import ConfigError
from tppo.config.schema import RewardSection
from tppo.grpc_server import address, reachable, start_server
from tppo.v1 import reward_pb2_grpc

SHUTDOWN_GRACE_SECONDS = 1.0  # for calls that are under way when the server stops


@dataclass(frozen=True, slots=True)
class Scoring:
    """Who scores, and who takes part in it from outside."""

    scorer: Scorer
    attached: AttachedFunctions


def placed(section: RewardSection, place: Place) -> list[str]:
    """What the configured functions call there. Raises `ConfigError`."""
    try:
        return specs_at(place, {*section.functions.values(), section.default_function} - {""})
    except ValueError as error:
        raise ConfigError(f"[reward] {error}") from None


@asynccontextmanager
async def scoring(section: RewardSection) -> AsyncIterator[Scoring]:
    """Runs the workers that the functions need; raises `ConfigError` when a function does not load."""
    specs = placed(section, Place.WORKER)
    pool = WorkerPool(
        specs,
        num_workers=section.num_workers if specs else 0,
        timeout_seconds=section.timeout_seconds,
        memory_limit_bytes=section.memory_limit_mb * 2**20,
    )
    attached = AttachedFunctions(AttachDeadlines(section.timeout_seconds, section.attach_wait_seconds))
    try:
        await _load(section, pool)
        yield Scoring(Scorer(section.functions, section.default_function, workers=pool, attached=attached), attached)
    finally:
        await pool.close()


@asynccontextmanager
async def serving(section: RewardSection, parts: Scoring, *, run: str) -> AsyncIterator[str]:
    """Runs the gRPC server; gives the address by which others reach it."""
    servicer = RewardServicer(parts.scorer, parts.attached, run=run, num_at_once=section.num_workers)

    def add_service(server: grpc.aio.Server) -> None:
        reward_pb2_grpc.add_RewardServiceServicer_to_server(servicer, server)

    token = token_from_environment()
    try:
        server, port = await start_server(SERVICE_NAME, add_service, host=section.host, port=section.port, token=token)
    except ConfigError as error:
        raise ConfigError(f"reward.{error}") from None
    try:
        yield address(section.advertise_host or reachable(section.host), port)
    finally:
        await server.stop(SHUTDOWN_GRACE_SECONDS)


async def _load(section: RewardSection, pool: WorkerPool) -> None:
    try:
        for spec in placed(section, Place.INLINE):
            load(spec)
        await pool.start()
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"[reward] {error}") from None
