"""A worker that runs for the length of a block, and what it does to its queue and reports in its heartbeats."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

from tppo.process.leased_worker import LeasedWorker
from tppo.streams import Lease, MemoryStreams, QueueDepth, RequestQueue, StreamsUnavailable
from tppo.streams.contract import BEGINNING, Outstanding


class Heartbeats:
    """Keeps what was announced; the first `num_failures` fail."""

    def __init__(self, num_failures: int = 0) -> None:
        self._num_failures = num_failures
        self.sent: asyncio.Queue[Mapping[str, object]] = asyncio.Queue()

    async def __call__(self, status: Mapping[str, object]) -> None:
        if self._num_failures:
            self._num_failures -= 1
            raise StreamsUnavailable("connection refused")
        self.sent.put_nowait(status)


class ObservedQueue:
    """A queue whose server is away at the first call of the methods named; it notes the calls of the worker."""

    def __init__(self, queue: RequestQueue, *, fails_first: Sequence[str] = ()) -> None:
        self._queue = queue
        self._to_fail = set(fails_first)
        self.failures: asyncio.Queue[str] = asyncio.Queue()
        self.renewals: asyncio.Queue[list[Lease]] = asyncio.Queue()
        self.deliveries: asyncio.Queue[int] = asyncio.Queue()

    def _fail_first(self, method: str) -> None:
        if method in self._to_fail:
            self._to_fail.remove(method)
            self.failures.put_nowait(method)
            raise StreamsUnavailable("connection refused")

    async def put(self, payloads: Sequence[bytes]) -> list[str]:
        return await self._queue.put(payloads)

    async def lease(self, worker: str, *, max_count: int, wait_seconds: float) -> list[Lease]:
        self._fail_first("lease")
        return await self._queue.lease(worker, max_count=max_count, wait_seconds=wait_seconds)

    async def renew(self, worker: str, leases: Sequence[Lease]) -> None:
        self._fail_first("renew")
        await self._queue.renew(worker, leases)
        if leases:
            self.renewals.put_nowait(list(leases))

    async def complete(self, worker: str, results: Sequence[tuple[Lease, bytes]]) -> list[bool]:
        self._fail_first("complete")
        is_written = await self._queue.complete(worker, results)
        self.deliveries.put_nowait(len(results))
        return is_written

    async def reject(self, worker: str, lease: Lease, cause: str) -> bool:
        return await self._queue.reject(worker, lease, cause)

    async def release(self, worker: str, leases: Sequence[Lease]) -> None:
        await self._queue.release(worker, leases)

    async def remaining(self, entry_ids: Sequence[str]) -> set[str]:
        return await self._queue.remaining(entry_ids)

    async def outstanding(self, after: str = BEGINNING, *, max_count: int) -> list[Outstanding]:
        return await self._queue.outstanding(after, max_count=max_count)

    async def depth(self) -> QueueDepth:
        return await self._queue.depth()


@asynccontextmanager
async def running(worker: LeasedWorker) -> AsyncIterator[None]:
    task = asyncio.create_task(worker.run())
    try:
        yield
    finally:
        worker.stop()
        await task


async def after_deaths(streams: MemoryStreams, worker: str, count: int) -> MemoryStreams:
    """The streams after so many workers of the same name have leased all window requests and died."""
    for _ in range(count):
        streams = streams.reopened()
        await streams.window_requests.lease(worker, max_count=10, wait_seconds=0)
    return streams.reopened()
