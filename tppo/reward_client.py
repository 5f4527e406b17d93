"""Offer your own reward functions to a training run, from a process of your own.

    from tppo.reward_client import reward_function, serve

    @reward_function("mine", min_score=0.0, max_score=1.0)
    def score(data_source, solution_str, ground_truth, extra_info):
        return float(ground_truth in solution_str)

    serve("127.0.0.1:50052")

A function returns a number, a table with "score" and further numbers (its components), or None to abstain; what it
raises becomes the cause of a failure. It may be asynchronous. With `batch_size` it gets lists, and returns a list. A
call without an answer within the service's deadline, which counts from its start, is given up, and costs itself alone.

Loops:
    _keep_attached           (one for each service) waits for the end of its stream / produces the next, after a pause
    _Stream._read            consumes work / waits for the next message / unblocked by the service
    _Stream._write           consumes starts and results / waits for some / unblocked by a caller / produces messages
"""

import asyncio
import inspect
import logging
import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import grpc
import grpc.aio

from tppo.process.backoff import Backoff
from tppo.process.cancellation import cancel_all
from tppo.process.grpc_server import CHANNEL_OPTIONS
from tppo.scoring.callers import Caller, OfferedFunction, ReceivedWork
from tppo.scoring.outcome import ScoreRange
from tppo.scoring.results import BATCHED, SINGLE, failure
from tppo.security.authentication import call_metadata
from tppo.security.service_tokens import token_for
from tppo.security.tls import channel
from tppo.v1 import reward_pb2 as pb
from tppo.v1 import reward_pb2_grpc as pb_grpc

log = logging.getLogger(__name__)

FIRST_DELAY_SECONDS = 0.1
LONGEST_DELAY_SECONDS = 5.0
JITTER = 0.5  # so that clients do not all return at once
ASYNC_CONCURRENCY = 16  # such functions mostly wait
FINAL_CODES = (
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.FAILED_PRECONDITION,  # another run
    grpc.StatusCode.UNIMPLEMENTED,  # no reward service
)

UserFunction = TypeVar("UserFunction", bound=Callable[..., Any])


class AttachError(Exception):
    """The service refuses this process, and would refuse it again."""


_offered: dict[str, OfferedFunction] = {}


def reward_function(
    name: str,
    *,
    min_score: float | None = None,
    max_score: float | None = None,
    batch_size: int = 0,
    concurrency: int = 0,
) -> Callable[[UserFunction], UserFunction]:
    """Offer the decorated function as `grpc:NAME`; `concurrency` 0: one call at once, or 16 of an async function."""

    scores = ScoreRange(
        minimum=-math.inf if min_score is None else min_score, maximum=math.inf if max_score is None else max_score
    )

    def offer(function: UserFunction) -> UserFunction:
        _require_signature(function, BATCHED if batch_size else SINGLE)
        calls = concurrency or (ASYNC_CONCURRENCY if inspect.iscoroutinefunction(function) else 1)
        _offered[name] = OfferedFunction(name, function, scores, batch_size, calls)
        return function

    return offer


def _require_signature(function: Callable[..., Any], names: Sequence[str]) -> None:
    try:
        inspect.signature(function).bind(**dict.fromkeys(names))
    except TypeError:
        raise ValueError(f"{function}: expected the parameters {', '.join(names)}") from None


def serve(*addresses: str, run: str = "", max_held: int = 0, token: str | None = None) -> None:
    """Score for the reward services at these addresses until Ctrl-C; `run`: refuse to work for another one.

    Where the program has set no logging up, what this module logs goes to standard error.
    """
    if not logging.getLogger().handlers:
        logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s")
        log.setLevel(logging.INFO)
    with suppress(KeyboardInterrupt):
        asyncio.run(attach(*addresses, run=run, max_held=max_held, token=token))


async def attach(*addresses: str, run: str = "", max_held: int = 0, token: str | None = None) -> None:
    """`serve` for a running event loop; ends when it is cancelled, or by `AttachError`."""
    functions = list(_offered.values())
    if not functions or not addresses:
        raise ValueError("expected an address, and a function decorated with @reward_function(NAME)")
    offer = _offer(functions, run=run, max_held=max_held)
    callers = {one.name: Caller(one) for one in functions}
    try:
        async with asyncio.TaskGroup() as group:
            for caller in callers.values():
                for _ in range(caller.function.concurrency):
                    group.create_task(caller.call_until_cancelled())
            for address in addresses:
                group.create_task(_keep_attached(address, offer, callers, token))
    except* AttachError as refusals:
        raise refusals.exceptions[0] from None
    finally:
        for caller in callers.values():
            caller.calls.close()


def _offer(functions: Sequence[OfferedFunction], *, run: str, max_held: int) -> pb.Offer:
    offered = [
        pb.OfferedFunction(name=one.name, min_score=one.scores.minimum, max_score=one.scores.maximum)
        for one in functions
    ]
    room = max_held or sum(one.room for one in functions)
    return pb.Offer(functions=offered, max_held=room, run=run, reports_starts=True)


async def _keep_attached(address: str, offer: pb.Offer, callers: dict[str, Caller], token: str | None) -> None:
    backoff = Backoff(first_seconds=FIRST_DELAY_SECONDS, longest_seconds=LONGEST_DELAY_SECONDS, jitter=JITTER)
    logged = ""
    while True:
        stream = _Stream(callers)
        cause = await _cause_of_end(stream, address, offer, token)
        if stream.is_accepted:
            backoff.reset()
            logged = ""
        log.log(logging.DEBUG if cause == logged else logging.WARNING, "%s: %s; retrying", address, cause)
        logged = cause
        await asyncio.sleep(backoff.next_delay())


async def _cause_of_end(stream: "_Stream", address: str, offer: pb.Offer, token: str | None) -> str:
    """Serves until the stream ends. Raises `AttachError`."""
    brought = token_for(address) if token is None else token
    try:
        await stream.serve(address, offer, call_metadata(brought))
    except grpc.aio.AioRpcError as error:
        cause = f"{error.code().name}: {error.details()}"
        is_outdated = error.code() is grpc.StatusCode.UNAUTHENTICATED and _is_replaced(brought, address, token)
        if not is_outdated and (error.code() in FINAL_CODES or _is_bad_offer(error, stream)):
            raise AttachError(f"{address}: {cause}") from None
        return cause
    return "the service ended the stream"


def _is_replaced(brought: str, address: str, token: str | None) -> bool:
    """Another service has begun to listen there since the token was looked up."""
    return token is None and token_for(address) not in ("", brought)


def _is_bad_offer(error: grpc.aio.AioRpcError, stream: "_Stream") -> bool:
    return error.code() is grpc.StatusCode.INVALID_ARGUMENT and not stream.is_accepted


class _Stream:
    """One attachment to one service, from its first message to its end."""

    def __init__(self, callers: dict[str, Caller]) -> None:
        self._callers = callers
        self._starts: list[pb.Started] = []
        self._results: list[pb.WorkResult] = []
        self._has_news = asyncio.Event()
        self.is_accepted = False
        self.timeout_seconds = math.inf  # of a call; from the acceptance on
        self.has_ended = False

    def post_start(self, start: pb.Started) -> None:
        self._starts.append(start)
        self._has_news.set()

    def post(self, result: pb.WorkResult) -> None:
        self._results.append(result)
        self._has_news.set()

    async def serve(self, address: str, offer: pb.Offer, metadata: Any) -> None:
        """Until the service ends it, which may raise an AioRpcError."""
        async with channel(address, CHANNEL_OPTIONS) as opened:
            stub: pb_grpc.RewardServiceAsyncStub = pb_grpc.RewardServiceStub(opened)
            call = stub.Attach(metadata=metadata)
            writing = asyncio.create_task(self._write(call, offer))
            try:
                await self._read(call)
            finally:
                self.has_ended = True
                for caller in self._callers.values():
                    caller.streams.discard(self)
                await cancel_all([writing])

    async def _read(self, call: Any) -> None:
        while (message := await call.read()) is not grpc.aio.EOF:
            if message.WhichOneof("message") == "accepted":
                self._accept(message.accepted)
            self._begin(message.work.work)

    def _accept(self, accepted: pb.Accepted) -> None:
        self.is_accepted = True
        self.timeout_seconds = accepted.timeout_seconds or math.inf
        for caller in self._callers.values():
            caller.streams.add(self)
        log.info("attached; scoring for run %r", accepted.run)

    def _begin(self, work: Iterable[pb.Work]) -> None:
        for one in work:
            if caller := self._callers.get(one.function):
                caller.add(ReceivedWork(one, self))
            else:
                self.post(failure(one, f"this process offers no function {one.function!r}"))

    async def _write(self, call: Any, offer: pb.Offer) -> None:
        with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):  # the stream has ended, which `_read` reports
            await call.write(pb.AttachRequest(offer=offer))
            while await self._has_news.wait():
                self._has_news.clear()
                starts, self._starts = self._starts, []
                results, self._results = self._results, []
                for start in starts:  # before the results, which may be of these calls
                    await call.write(pb.AttachRequest(started=start))
                if results:
                    await call.write(pb.AttachRequest(results=pb.ResultBatch(results=results)))
