"""A worker: a forked process that calls reward functions, and may be killed at any moment.

Its first frame says what it is for. Then, one request at a time (several: `concurrent_worker.py`):

consumes requests, as frames / waits for the next one / unblocked by the service's next request, or by SIGKILL
produces one frame with the outcome for each
"""

import asyncio
import ctypes
import dataclasses
import inspect
import os
import resource
import signal
import socket
import sys
import traceback
from collections.abc import Awaitable
from typing import Never

from services.reward.verifiers.built_in import RewardFunction
from services.reward.verifiers.functions import is_asynchronous, load, outcome_of_call
from services.reward.workers import concurrent_worker, frames
from tppo.rollout import RewardRequest
from tppo.scoring.outcome import Outcome, failed

PR_SET_PDEATHSIG = 1  # <sys/prctl.h>


@dataclasses.dataclass(frozen=True, slots=True)
class WorkerLimits:
    """What a worker may use and do."""

    memory_bytes: int  # address space
    allow_unsandboxed: bool = False  # for the programs that `code` runs


class CancelledCallError(Exception):
    """The function, or what it waited for, was cancelled by its own code."""


def run(connection: socket.socket, limits: WorkerLimits) -> Never:
    """Turn this just forked process into a worker; it ends here, never in the code of its parent."""
    exit_code = 1
    try:
        os.setpgid(0, 0)
        _die_with_parent()
        resource.setrlimit(resource.RLIMIT_AS, (limits.memory_bytes, limits.memory_bytes))
        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, signal.SIG_DFL)
        _serve(connection)
        exit_code = 0
    except BaseException:  # SystemExit, too, must not unwind into the fork server's loop
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(exit_code)


def _die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _serve(connection: socket.socket) -> None:
    if (role := frames.receive(connection)) is None:
        return
    functions = {spec: _loaded(spec) for spec in role["specs"]}
    loaded = {spec: function for spec, function in functions.items() if not isinstance(function, ValueError)}
    load_errors = {spec: str(function) for spec, function in functions.items() if isinstance(function, ValueError)}
    report = {"load_errors": load_errors, "asynchronous": [spec for spec in loaded if is_asynchronous(spec)]}
    connection.sendall(frames.encoded(report))
    with asyncio.Runner() as runner:
        if role["is_concurrent"]:
            runner.run(concurrent_worker.serve(connection, loaded))
            return
        while call := frames.receive(connection):
            outcome = _outcome(functions[call["function"]], RewardRequest(**call["request"]), runner)
            connection.sendall(frames.encoded(dataclasses.asdict(outcome)))


def _loaded(spec: str) -> RewardFunction | ValueError:
    """The function, or why it does not load: that fails its own requests only."""
    try:
        return load(spec)
    except ValueError as error:
        return error


def _outcome(function: RewardFunction | ValueError, request: RewardRequest, runner: asyncio.Runner) -> Outcome:
    if isinstance(function, ValueError):
        return failed(str(function))

    def call(request: RewardRequest) -> object:
        result = function(request)
        return runner.run(_result_of(result)) if inspect.isawaitable(result) else result

    return outcome_of_call(call, request)


async def _result_of(awaitable: Awaitable[object]) -> object:
    try:
        return await awaitable
    except asyncio.CancelledError:
        raise CancelledCallError("the call was cancelled by the function's own code") from None
