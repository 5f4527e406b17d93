"""A bounded number of workers that score requests under a deadline; one that fails is killed and replaced."""

import asyncio
import dataclasses
from collections.abc import Sequence

from services.reward.workers.client import ForkServerClient, Worker, WorkerEndedError
from services.reward.workers.worker import WorkerLimits
from tppo.rollout import RewardRequest, ScoreStatus
from tppo.scoring.outcome import Outcome, failed, timed_out


class FunctionError(ValueError):
    """A function that does not load, as the configuration has it, and why in one sentence."""

    def __init__(self, spec: str, reason: str) -> None:
        super().__init__(reason)
        self.spec = spec


class WorkerPool:
    """States of a worker: none -> idle -> busy -> idle ..., or busy -> killed -> none, until the next request."""

    def __init__(self, specs: Sequence[str], *, num_workers: int, timeout_seconds: float, limits: WorkerLimits) -> None:
        self._specs = specs
        self._num_workers = num_workers
        self._timeout_seconds = timeout_seconds
        self._limits = limits
        self._fork_server: ForkServerClient | None = None
        self._idle: asyncio.LifoQueue[Worker | None] = asyncio.LifoQueue()  # None: the right to fork one

    async def start(self) -> None:
        """Fork all workers. Raises ValueError with one sentence, `FunctionError` where a function does not load."""
        if not self._num_workers:
            return
        self._fork_server = await ForkServerClient.start(self._specs, self._limits)
        for _ in range(self._num_workers):
            self._idle.put_nowait(await self._first_worker(self._fork_server))

    async def _first_worker(self, fork_server: ForkServerClient) -> Worker:
        try:
            worker = await fork_server.worker()
        except WorkerEndedError as ended:
            raise ValueError(f"loading the reward functions {', '.join(self._specs)}: {ended}") from None
        if worker.load_errors:
            worker.kill()
            raise FunctionError(*next(iter(worker.load_errors.items())))
        return worker

    async def close(self) -> None:
        """Kill all workers."""
        while not self._idle.empty():
            if worker := self._idle.get_nowait():
                worker.kill()
        if self._fork_server:
            await self._fork_server.close()

    async def outcome(self, spec: str, request: RewardRequest) -> Outcome:
        """Call the function `spec` in a worker, as soon as one is free; the deadline counts from then."""
        assert self._fork_server is not None
        worker = await self._idle.get()
        survivor = None
        try:
            if worker is None or not worker.is_alive:
                worker = await self._fork_server.worker()
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

    async def _outcome_from(self, worker: Worker, spec: str, request: RewardRequest) -> Outcome:
        async with asyncio.timeout(self._timeout_seconds):
            answer = await worker.call({"function": spec, "request": dataclasses.asdict(request)})
        return Outcome(**{**answer, "status": ScoreStatus(answer["status"])})
