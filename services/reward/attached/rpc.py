"""`RewardService` over gRPC: scores by request, and functions that users' own processes offer.

Loops, for each attached process:
    _read    consumes the starts of its calls, and its answers / waits for the next message
             unblocked by the process, or by the end of its stream / produces outcomes
    _write   consumes pieces of work / waits until some are on the way to it / unblocked by `AttachedFunctions`
             produces messages
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import grpc
import grpc.aio

from services.reward.attached.attachment import Attachment, Held, StuckError
from services.reward.attached.dispatch import AttachedFunctions
from services.reward.attached.messages import answer_record, offer_record, start_record
from services.reward.attached.offer import InvalidMessageError, Offer
from services.reward.scorer import Scorer
from tppo import rollout
from tppo.codec import reward_request_message, reward_request_record, score_message
from tppo.process.cancellation import cancel_all
from tppo.process.grpc_server import MAX_MESSAGE_BYTES
from tppo.rollout import RewardRequest
from tppo.v1 import reward_pb2 as pb
from tppo.v1 import reward_pb2_grpc as pb_grpc

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["RewardService"].full_name
OFFER_SECONDS = 10.0  # for the first message of a stream
MAX_WAITING = 4096  # requests by `Score` that are not answered yet
BATCH_BYTES = 2 * 2**20  # a message with more than one piece of work is not larger

Context = grpc.aio.ServicerContext[Any, Any]


class RewardServicer(pb_grpc.RewardServiceServicer):
    """Messages in and out; `Scorer` decides who scores what."""

    def __init__(self, scorer: Scorer, attached: AttachedFunctions, *, run: str, num_at_once: int) -> None:
        """At most `num_at_once` requests by `Score` are scored at a time, so that the run's own do not wait."""
        self._scorer = scorer
        self._attached = attached
        self._run = run
        self._room = asyncio.Semaphore(num_at_once)
        self._num_waiting = 0

    async def Score(self, request: pb.ScoreRequest, context: Context) -> pb.ScoreResponse:  # noqa: N802
        if request.function and request.function not in self._scorer.known_functions:
            known = ", ".join(sorted(self._scorer.known_functions))
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"function {request.function!r}; expected {known}")
        num_requests = len(request.requests)
        if self._num_waiting + num_requests > MAX_WAITING:
            details = (
                f"{self._num_waiting} requests wait and {num_requests} more arrived; expected at most {MAX_WAITING}"
            )
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, details)
        self._num_waiting += num_requests
        try:
            scores = await self._scores([reward_request_record(one) for one in request.requests], request.function)
        finally:
            self._num_waiting -= num_requests
        return pb.ScoreResponse(scores=[score_message(score) for score in scores])

    async def Attach(self, request_iterator: AsyncIterator[pb.AttachRequest], context: Context) -> None:  # type: ignore[override]  # noqa: N802
        try:
            offer = await self._offer(request_iterator, context)
            with self._attached.attached(offer) as attachment:
                timeout_seconds = self._attached.deadlines.timeout_seconds
                accepted = pb.Accepted(run=self._run, timeout_seconds=timeout_seconds)
                await context.write(pb.AttachResponse(accepted=accepted))
                await _first_to_end(self._read(attachment, request_iterator), _write(attachment, context))
        except InvalidMessageError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        except StuckError as error:
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, str(error))

    async def _scores(self, requests: Sequence[RewardRequest], function: str) -> list[rollout.Score]:
        async def score(request: RewardRequest) -> rollout.Score:
            async with self._room:
                return await self._scorer.score(request, function)

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(score(request)) for request in requests]
        return [task.result() for task in tasks]

    async def _offer(self, requests: AsyncIterator[pb.AttachRequest], context: Context) -> Offer:
        try:
            async with asyncio.timeout(OFFER_SECONDS):
                first = await anext(aiter(requests), None)
        except TimeoutError:
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, f"no offer within {OFFER_SECONDS:g} s")
        if first is not None and first.offer.run not in ("", self._run):
            details = f"offered to run {first.offer.run!r}; this service scores {self._run!r}"
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, details)
        try:
            return offer_record(first)
        except InvalidMessageError:
            self._attached.count_refusal()
            raise

    async def _read(self, attachment: Attachment, requests: AsyncIterator[pb.AttachRequest]) -> None:
        async for message in requests:
            match message.WhichOneof("message"):
                case "started":
                    self._attached.start(attachment, start_record(message.started))
                case "results":
                    for result in message.results.results:
                        self._attached.answer(attachment, answer_record(result))
                case _:
                    self._attached.count_refusal()
                    raise InvalidMessageError("expected starts and results after the offer")


def registration(servicer: pb_grpc.RewardServiceServicer) -> Callable[[grpc.aio.Server], None]:
    """Adds the servicer to a server."""
    return partial(pb_grpc.add_RewardServiceServicer_to_server, servicer)


async def _write(attachment: Attachment, context: Context) -> None:
    while True:
        for batch in _batches(await attachment.next_work()):
            await context.write(pb.AttachResponse(work=pb.WorkBatch(work=batch)))


def _batches(held: Iterable[Held]) -> Iterator[list[pb.Work]]:
    """The work in messages of a bounded size; a piece that is larger goes alone."""
    batch, num_bytes = list[pb.Work](), 0
    for one in held:
        request = reward_request_message(one.piece.request)
        work = pb.Work(lease_id=one.lease_id, function=one.piece.function, request=request)
        size = work.ByteSize()
        assert size < MAX_MESSAGE_BYTES
        if batch and num_bytes + size > BATCH_BYTES:
            yield batch
            batch, num_bytes = [], 0
        batch.append(work)
        num_bytes += size
    yield batch


async def _first_to_end(*loops: Any) -> None:
    """Run side by side until one of them ends or fails; that ends the others."""
    tasks = [asyncio.ensure_future(loop) for loop in loops]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        await cancel_all(tasks)
