"""Who calls a user's functions: the work of all services in, starts and results out.

Caller.call_until_cancelled    (`concurrency` for each function) consumes pieces of work / waits for the next, and
                               while too many calls hang / unblocked by a service / produces starts and results
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from tppo.scoring.calls import CallTimedOutError, FunctionCalls
from tppo.scoring.outcome import ScoreRange, cause_of
from tppo.scoring.results import arguments_of, failure, late, results_of
from tppo.v1 import reward_pb2 as pb

ROOM_PER_CALL = 2  # what is being scored, and what is scored next
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class OfferedFunction:
    """A function and how it wants to be called."""

    name: str
    call: Callable[..., Any]
    scores: ScoreRange
    batch_size: int  # 0: one response at a time
    concurrency: int  # calls at once

    @property
    def room(self) -> int:
        """Pieces of work that it holds at once."""
        return ROOM_PER_CALL * self.concurrency * max(1, self.batch_size)


class WorkStream(Protocol):
    """Where work comes from, and where what becomes of it goes."""

    timeout_seconds: float  # of a call
    has_ended: bool

    def post_start(self, start: pb.Started, /) -> None:
        """A call of a function has started."""

    def post(self, result: pb.WorkResult, /) -> None:
        """A piece of its work is done."""


@dataclass(frozen=True)
class ReceivedWork:
    """Work, and where its result goes."""

    work: pb.Work
    stream: WorkStream


class Caller:
    """Calls one function with the work of all services."""

    def __init__(self, function: OfferedFunction) -> None:
        self.function = function
        self.calls = FunctionCalls(function.name, function.call)
        self.streams: set[WorkStream] = set()  # all that are open: each is shown that calls start
        self._waiting: asyncio.Queue[ReceivedWork] = asyncio.Queue()  # bounded by the room that was offered

    def add(self, piece: ReceivedWork) -> None:
        self._waiting.put_nowait(piece)

    async def call_until_cancelled(self) -> None:
        while True:
            pieces = [await self._waiting.get()]
            await self.calls.room()
            while len(pieces) < self.function.batch_size and not self._waiting.empty():
                pieces.append(self._waiting.get_nowait())
            pieces = [piece for piece in pieces if not piece.stream.has_ended]
            if pieces:
                self._report_start(pieces)
                deadline_seconds = max(piece.stream.timeout_seconds for piece in pieces)
                results = await self._results([piece.work for piece in pieces], deadline_seconds)
                for piece, result in zip(pieces, results, strict=True):
                    piece.stream.post(result)

    def _report_start(self, pieces: Sequence[ReceivedWork]) -> None:
        for stream in self.streams:
            lease_ids = [piece.work.lease_id for piece in pieces if piece.stream is stream]
            stream.post_start(pb.Started(function=self.function.name, lease_ids=lease_ids))

    async def _results(self, work: Sequence[pb.Work], deadline_seconds: float) -> list[pb.WorkResult]:
        try:
            arguments = arguments_of(work, is_batched=self.function.batch_size > 0)
            returned, error = await self.calls.ended(arguments, deadline_seconds=deadline_seconds)
            if error is None:
                return results_of(work, returned if self.function.batch_size else [returned], self.function.scores)
        except Exception as unusable:  # no arguments, or a value whose conversion raises
            error = unusable
        if isinstance(error, CallTimedOutError):
            return [late(one, str(error)) for one in work]
        log.error("%s raised", self.function.name, exc_info=error)
        return [failure(one, cause_of(error)) for one in work]
