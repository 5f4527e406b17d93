"""The service's side of Attach, message by message, to examine the client that dials."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc
import grpc.aio

from services.reward.attached.messages import answer_record, offer_record
from services.reward.attached.offer import InvalidMessageError, Offer, outcome_of_answer
from tppo.codec import reward_request_record
from tppo.v1 import reward_pb2 as pb
from tppo.v1 import reward_pb2_grpc as pb_grpc

TIMEOUT_SECONDS = 60.0  # sent to the client as the deadline of its work


class ViolationError(Exception):
    """The client broke a rule; the text says which."""


class ExaminedStream:
    """One attachment of the client."""

    def __init__(self, requests: AsyncIterator[pb.AttachRequest], context: Any, offer: Offer) -> None:
        self._requests = requests
        self._context = context
        self.offer = offer
        self._started: set[int] = set()  # leases
        self.verdict: asyncio.Future[grpc.StatusCode] = asyncio.get_running_loop().create_future()

    @property
    def is_open(self) -> bool:
        """Whether neither side has ended it."""
        return not (self.verdict.done() or self._context.done())

    async def send(self, message: pb.AttachResponse) -> None:
        await self._context.write(message)

    async def answers(self, work: Sequence[pb.Work], *, seconds: float) -> dict[int, pb.WorkResult]:
        """The answers by lease, one for each piece of work, all of them valid. Raises `ViolationError`."""
        expected = {one.lease_id: one for one in work}
        found: dict[int, pb.WorkResult] = {}
        try:
            async with asyncio.timeout(seconds):
                while len(found) < len(expected):
                    for result in await self._next_results():
                        if result.lease_id in found:
                            raise ViolationError(f"lease {result.lease_id} was answered twice")
                        self._require_valid(result, expected.get(result.lease_id))
                        found[result.lease_id] = result
        except TimeoutError:
            raise ViolationError(f"{len(found)} of {len(expected)} answered within {seconds:g} s") from None
        return found

    def end(self, code: grpc.StatusCode) -> None:
        """End it as a service does that stops, or that refuses."""
        if not self.verdict.done():
            self.verdict.set_result(code)

    async def _next_results(self) -> Sequence[pb.WorkResult]:
        """Those of the next message; none of one that reports a start."""
        message = await anext(self._requests, None)
        if message is None:
            raise ViolationError("the client ended its stream")
        if message.WhichOneof("message") == "started":
            self._note_start(message.started)
        elif message.WhichOneof("message") != "results":
            raise ViolationError("after its offer the client sent a message without results; expected results")
        return message.results.results

    def _note_start(self, started: pb.Started) -> None:
        if not self.offer.reports_starts or started.function not in self.offer.functions:
            raise ViolationError(f"a start of {started.function!r:.120}, which was not offered with reports_starts")
        self._started.update(started.lease_ids)

    def _require_valid(self, result: pb.WorkResult, work: pb.Work | None) -> None:
        if work is None:
            raise ViolationError(f"lease {result.lease_id} was answered; it was not sent on this stream")
        if result.rollout_id != work.request.rollout_id:
            raise ViolationError(
                f"lease {result.lease_id} was answered for rollout {result.rollout_id!r:.80}; "
                f"expected {work.request.rollout_id!r}"
            )
        if self.offer.reports_starts and work.function in self.offer.functions and work.lease_id not in self._started:
            raise ViolationError(f"lease {work.lease_id} was answered without a start; its offer has reports_starts")
        scores = self.offer.functions.get(work.function, next(iter(self.offer.functions.values())))
        try:
            outcome_of_answer(answer_record(result), reward_request_record(work.request), scores)
        except InvalidMessageError as error:
            raise ViolationError(str(error)) from None


class ExaminingServicer(pb_grpc.RewardServiceServicer):
    """Keeps each stream open for the examination, until that ends it."""

    def __init__(self) -> None:
        self._arrived: asyncio.Queue[ExaminedStream | InvalidMessageError] = asyncio.Queue()

    async def next_stream(self, *, seconds: float) -> ExaminedStream:
        """The next attachment, accepted. Raises `ViolationError` when none comes, or its offer is invalid."""
        try:
            async with asyncio.timeout(seconds):
                arrived = await self._arrived.get()
        except TimeoutError:
            raise ViolationError(f"no client has attached within {seconds:g} s") from None
        if isinstance(arrived, InvalidMessageError):
            raise ViolationError(str(arrived))
        return arrived

    async def Score(self, request: pb.ScoreRequest, context: Any) -> pb.ScoreResponse:  # noqa: N802
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "only Attach is served here")
        raise AssertionError("abort raises")

    async def Attach(self, request_iterator: AsyncIterator[pb.AttachRequest], context: Any) -> None:  # type: ignore[override]  # noqa: N802
        requests = aiter(request_iterator)
        try:
            offer = offer_record(await anext(requests, None))
        except InvalidMessageError as error:
            self._arrived.put_nowait(error)
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        stream = ExaminedStream(requests, context, offer)
        await stream.send(pb.AttachResponse(accepted=pb.Accepted(run="conformance", timeout_seconds=TIMEOUT_SECONDS)))
        self._arrived.put_nowait(stream)
        await context.abort(await stream.verdict, "ended by the conformance check")
