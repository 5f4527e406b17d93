"""Workers for the length of a test."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from services.reward.workers.pool import WorkerPool
from services.reward.workers.worker import WorkerLimits
from tests.support.waiting import DEADLINE_SECONDS


@asynccontextmanager
async def pool_of(
    *specs: str, num_workers: int = 1, concurrency: int = 64, timeout_seconds: float = DEADLINE_SECONDS
) -> AsyncIterator[WorkerPool]:
    limits = WorkerLimits(2**30)
    pool = WorkerPool(
        specs, num_workers=num_workers, concurrency=concurrency, timeout_seconds=timeout_seconds, limits=limits
    )
    try:
        await pool.start()
        yield pool
    finally:
        await pool.close()
