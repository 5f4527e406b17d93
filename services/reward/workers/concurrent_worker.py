"""The part of a worker that calls asynchronous functions, many at once in one event loop.

serve    consumes frames, each a call or the end of one / waits for the next / unblocked by the service, or by SIGKILL
_answer  (one task per call) waits for the function, until the call's deadline / produces a frame with its outcome
"""

import asyncio
import dataclasses
import functools
import inspect
import socket
import time
from collections.abc import Mapping

from services.reward.verifiers.built_in import RewardFunction
from services.reward.workers import frames
from tppo.rollout import RewardRequest
from tppo.scoring.outcome import Outcome, cause_of, failed, outcome_of, timed_out


async def serve(connection: socket.socket, functions: Mapping[str, RewardFunction]) -> None:
    """Until the service closes the connection."""
    reader, writer = await asyncio.open_connection(sock=connection)
    calls: dict[int, asyncio.Task[None]] = {}
    while (frame := await _next(reader)) is not None:
        if cancelled := calls.get(frame.get("cancel", -1)):
            cancelled.cancel()
        elif "function" in frame:
            task = asyncio.create_task(_answer(frame, functions[frame["function"]], writer))
            calls[frame["id"]] = task
            task.add_done_callback(functools.partial(_forget, calls, frame["id"]))


async def outcome_of_waiting(function: RewardFunction, request: RewardRequest, *, timeout_seconds: float) -> Outcome:
    """Call an asynchronous function on a request; whatever it raises becomes FAILED, and past the deadline TIMED_OUT,
    even where the function catches its cancellation and returns a number.
    """
    started_at = time.perf_counter()
    deadline = asyncio.timeout(timeout_seconds)
    try:
        async with deadline:
            result = function(request)
            outcome = outcome_of(await result if inspect.isawaitable(result) else result)
    except asyncio.CancelledError:
        if (task := asyncio.current_task()) is not None and task.cancelling():
            raise  # by the service
        outcome = failed("the call was cancelled by the function's own code")
    except Exception as error:  # other people's code: any exception is a failure of the function, not of the service
        outcome = failed(cause_of(error))
    if deadline.expired():
        outcome = timed_out(timeout_seconds)
    return dataclasses.replace(outcome, duration_seconds=time.perf_counter() - started_at)


async def _answer(frame: frames.Frame, function: RewardFunction, writer: asyncio.StreamWriter) -> None:
    request = RewardRequest(**frame["request"])
    outcome = await outcome_of_waiting(function, request, timeout_seconds=frame["timeout_seconds"])
    writer.write(frames.encoded({**dataclasses.asdict(outcome), "id": frame["id"]}))


def _forget(calls: dict[int, asyncio.Task[None]], number: int, _ended: asyncio.Task[None]) -> None:
    del calls[number]


async def _next(reader: asyncio.StreamReader) -> frames.Frame | None:
    try:
        return await frames.read(reader)
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
