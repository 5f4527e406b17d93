"""A bounded number of workers that score requests under a deadline; one that fails is killed and replaced."""

import asyncio
import dataclasses
from collections.abc import Sequence

from services.reward.workers.client import ForkServerClient, Role, Worker, WorkerEndedError
from services.reward.workers.concurrent_lane import ConcurrentLane, Lane, StartWorker
from services.reward.workers.worker import WorkerLimits
from tppo.rollout import RewardRequest, ScoreStatus
from tppo.scoring.outcome import Outcome, failed, timed_out


class FunctionError(ValueError):
    """A function that does not load, as the configuration has it, and why in one sentence."""

    def __init__(self, spec: str, reason: str) -> None:
        super().__init__(reason)
        self.spec = spec


class SerialLane:
    """One call at a time in each worker.

    States of a worker: none -> idle -> busy -> idle ..., or busy -> killed -> none, until the next request.
    """

    def __init__(self, start: StartWorker, *, timeout_seconds: float) -> None:
        self._start = start
        self._timeout_seconds = timeout_seconds
        self._idle: asyncio.LifoQueue[Worker | None] = asyncio.LifoQueue()  # None: the right to start one

    def add(self, worker: Worker | None) -> None:
        """A worker more, which may be started when it is needed."""
        self._idle.put_nowait(worker)

    async def outcome(self, spec: str, request: RewardRequest) -> Outcome:
        """Call the function `spec` in a worker, as soon as one is free; the deadline counts from then."""
        worker = await self._idle.get()
        survivor = None
        try:
            if worker is None or not worker.is_alive:
                worker = await self._start()
            outcome = await self._outcome_from(worker, spec, request)
            survivor = worker
        except TimeoutError:
            outcome = timed_out(self._timeout_seconds)
        except WorkerEndedError as ended:
            outcome = failed(str(ended))
        finally:
            if worker is not None and survivor is None:
                worker.kill()
            self._idle.put_nowait(survivor)
        return outcome

    def close(self) -> None:
        """Kill all workers."""
        while not self._idle.empty():
            if worker := self._idle.get_nowait():
                worker.kill()

    async def _outcome_from(self, worker: Worker, spec: str, request: RewardRequest) -> Outcome:
        async with asyncio.timeout(self._timeout_seconds):
            answer = await worker.call({"function": spec, "request": dataclasses.asdict(request)})
        return Outcome(**{**answer, "status": ScoreStatus(answer["status"])})


class WorkerPool:
    """`num_workers` for one call at a time, and as many again for the asynchronous functions, if there are any."""

    def __init__(
        self,
        specs: Sequence[str],
        *,
        num_workers: int,
        timeout_seconds: float,
        limits: WorkerLimits,
        concurrency: int = 64,
    ) -> None:
        self._specs = specs
        self._num_workers = num_workers
        self._concurrency = concurrency
        self._timeout_seconds = timeout_seconds
        self._limits = limits
        self._fork_server: ForkServerClient | None = None
        self._serial = SerialLane(lambda: self._worker(Role(specs)), timeout_seconds=timeout_seconds)
        self._concurrent: ConcurrentLane | None = None
        self.asynchronous: frozenset[str] = frozenset()
        """The functions whose calls overlap."""

    async def start(self) -> None:
        """Fork workers. Raises ValueError with one sentence, `FunctionError` where a function does not load."""
        if not self._num_workers:
            return
        self._fork_server = await ForkServerClient.start(self._specs, self._limits)
        first = await self._first_worker()
        self._serial.add(first)
        self.asynchronous = frozenset(first.asynchronous)
        is_idle_at_first = self.asynchronous.issuperset(self._specs)
        for _ in range(self._num_workers - 1):
            self._serial.add(None if is_idle_at_first else await self._first_worker())
        if self.asynchronous:
            role = Role(sorted(self.asynchronous), is_concurrent=True)
            self._concurrent = ConcurrentLane(
                lambda: self._worker(role),
                self._serial,
                num_workers=self._num_workers,
                concurrency=self._concurrency,
                timeout_seconds=self._timeout_seconds,
            )

    async def close(self) -> None:
        """Kill all workers."""
        self._serial.close()
        if self._concurrent:
            self._concurrent.close()
        if self._fork_server:
            await self._fork_server.close()
        if self._concurrent:
            await self._concurrent.ended()

    async def outcome(self, spec: str, request: RewardRequest) -> Outcome:
        """Call the function `spec` in a worker; the deadline counts from the moment at which one has room for it."""
        lane: Lane = self._concurrent if self._concurrent and spec in self.asynchronous else self._serial
        return await lane.outcome(spec, request)

    async def _worker(self, role: Role) -> Worker:
        assert self._fork_server is not None
        return await self._fork_server.worker(role)

    async def _first_worker(self) -> Worker:
        try:
            worker = await self._worker(Role(self._specs))
        except WorkerEndedError as ended:
            raise ValueError(f"loading the reward functions {', '.join(self._specs)}: {ended}") from None
        if worker.load_errors:
            worker.kill()
            raise FunctionError(*next(iter(worker.load_errors.items())))
        return worker
