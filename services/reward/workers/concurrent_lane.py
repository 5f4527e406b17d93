"""Asynchronous functions in workers that make many calls at once; what a failing call takes along is repeated alone.

ConcurrentWorker._read   consumes frames of one worker / waits for the next / unblocked by an answer, or by the worker's
                         end / produces the answers of its calls, in any order; at its end their WorkerEndedError
"""

import asyncio
import dataclasses
import itertools
from collections.abc import Awaitable, Callable
from typing import Protocol

from services.reward.workers import frames
from services.reward.workers.client import Worker, WorkerEndedError
from tppo.rollout import RewardRequest, ScoreStatus
from tppo.scoring.outcome import Outcome

ANSWER_SECONDS = 5.0
"""Beyond a call's deadline, which the worker itself keeps; one whose event loop is blocked does not."""

StartWorker = Callable[[], Awaitable[Worker]]


class Lane(Protocol):
    """Calls functions in workers."""

    async def outcome(self, spec: str, request: RewardRequest) -> Outcome:
        """What the function makes of the request, within the deadline."""


class ConcurrentWorker:
    """A worker under several calls."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._answers: dict[int, asyncio.Future[frames.Frame]] = {}
        self._numbers = itertools.count()
        self._reading = asyncio.create_task(self._read())

    @property
    def is_alive(self) -> bool:
        return self._worker.is_alive and not self._reading.done()

    async def call(self, request: frames.Frame) -> frames.Frame:
        """The outcome of the request. Raises WorkerEndedError when the worker ends instead."""
        number = next(self._numbers)
        answer: asyncio.Future[frames.Frame] = asyncio.get_running_loop().create_future()
        self._answers[number] = answer
        try:
            self._worker.send({**request, "id": number})
            if self._reading.done():
                raise WorkerEndedError("the worker has ended")
            return await answer
        except asyncio.CancelledError:
            self._worker.send({"cancel": number})
            raise
        finally:
            del self._answers[number]

    def kill(self) -> None:
        """End it, with all its calls."""
        self._worker.kill()

    async def ended(self) -> None:
        """Once it has been killed and its end was reported."""
        await self._reading

    async def _read(self) -> None:
        try:
            while True:
                frame = await self._worker.next_frame()
                answer = self._answers.get(frame.pop("id"))
                if answer is not None and not answer.done():
                    answer.set_result(frame)
        except (WorkerEndedError, ValueError, KeyError) as error:  # the last two: its code wrote into our connection
            self._worker.kill()
            for answer in self._answers.values():
                if not answer.done():
                    answer.set_exception(WorkerEndedError(str(error)))


class _Place:
    """Where one worker is, or will be."""

    def __init__(self, start: StartWorker) -> None:
        self.num_calls = 0
        self._start = start
        self._worker: ConcurrentWorker | None = None
        self._starting = asyncio.Lock()

    async def worker(self) -> ConcurrentWorker:
        """One that lives. Raises WorkerEndedError when it ends before it has loaded its functions."""
        async with self._starting:
            if self._worker is None or not self._worker.is_alive:
                self._worker = ConcurrentWorker(await self._start())
            return self._worker

    def kill(self) -> None:
        if self._worker is not None:
            self._worker.kill()

    async def ended(self) -> None:
        if self._worker is not None:
            await self._worker.ended()


class ConcurrentLane:
    """Up to `concurrency` calls at once in each of its workers.

    A call whose worker ended, or stopped answering, under several calls goes to `alone`, which makes one at a time:
    only then is it known which of them it was, and the others get their scores.
    """

    def __init__(
        self, start: StartWorker, alone: Lane, *, num_workers: int, concurrency: int, timeout_seconds: float
    ) -> None:
        self._alone = alone
        self._timeout_seconds = timeout_seconds
        self._places = [_Place(start) for _ in range(num_workers)]
        self._room = asyncio.Semaphore(num_workers * concurrency)

    async def outcome(self, spec: str, request: RewardRequest) -> Outcome:
        """The deadline counts from the moment at which a worker has room."""
        async with self._room:
            place = min(self._places, key=lambda one: one.num_calls)
            place.num_calls += 1
            try:
                return await self._outcome_at(place, spec, request)
            except WorkerEndedError:
                pass
            finally:
                place.num_calls -= 1
        return await self._alone.outcome(spec, request)

    def close(self) -> None:
        """Kill all workers."""
        for place in self._places:
            place.kill()

    async def ended(self) -> None:
        """Once the end of all workers was reported."""
        for place in self._places:
            await place.ended()

    async def _outcome_at(self, place: _Place, spec: str, request: RewardRequest) -> Outcome:
        worker = await place.worker()
        call = {"function": spec, "request": dataclasses.asdict(request), "timeout_seconds": self._timeout_seconds}
        try:
            async with asyncio.timeout(self._timeout_seconds + ANSWER_SECONDS):
                answer = await worker.call(call)
        except TimeoutError:
            worker.kill()
            raise WorkerEndedError("the worker stopped answering") from None
        return Outcome(**{**answer, "status": ScoreStatus(answer["status"])})
