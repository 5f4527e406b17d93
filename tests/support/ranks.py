"""Several ranks of torch.distributed as processes, forked from one that has imported what they need."""

import multiprocessing
import tempfile
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from datetime import timedelta
from functools import cache
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import torch

from learner.parallel.group import Group

SECONDS = 240
"""On a busy machine. A group that takes longer has met a collective that one of its ranks does not make."""


def in_group(size: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What `function(group, *arguments)` returns at each rank; both are pickled."""
    with ExitStack() as opened:
        store = opened.enter_context(tempfile.TemporaryDirectory())
        receivers: list[Connection] = []
        for rank in range(size):
            receiver, sender = _context().Pipe(duplex=False)
            process = _context().Process(
                target=_as_rank, args=(rank, size, f"{store}/store", sender, function, arguments), daemon=True
            )
            process.start()
            sender.close()
            opened.callback(process.join)
            opened.callback(process.kill)
            receivers.append(receiver)
        return [_result(receiver) for receiver in _as_they_come(receivers)]


def _as_they_come(receivers: list[Connection]) -> list[Connection]:
    """In order, once all have something to say, or one of them has failed."""
    missing = set(receivers)
    while missing:
        ready = wait(list(missing), SECONDS)
        assert ready, f"{len(missing)} of {len(receivers)} ranks have not ended"
        for receiver in ready:
            assert isinstance(receiver, Connection)
            missing.remove(receiver)
    return receivers


def _result(receiver: Connection) -> Any:
    try:
        is_error, result = receiver.recv()
    except EOFError:
        raise AssertionError("a rank has ended without a result") from None
    assert not is_error, result
    return result


@cache
def _context() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["learner.state", "torch.distributed.fsdp", "torch.distributed.tensor"])
    return context


def _as_rank(
    rank: int, size: int, store: str, sender: Connection, function: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    try:
        torch.distributed.init_process_group(
            "gloo",
            init_method=Path(store).as_uri(),
            rank=rank,
            world_size=size,
            timeout=timedelta(seconds=SECONDS / 2),
        )
        sender.send((False, function(Group.joined(torch.device("cpu")), *arguments)))
    except BaseException:
        sender.send((True, f"rank {rank} of {size}: {traceback.format_exc()}"))
        raise
