"""Several ranks of torch.distributed as processes, forked from one that has imported what they need.

A group is worth a few seconds: a module of tests starts one of each size, and makes all of its calls there.
"""

import multiprocessing
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import timedelta
from functools import cache
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import torch

from learner.parallel.group import Group
from tests.support.waiting import DEADLINE_SECONDS

COLLECTIVE_SECONDS = DEADLINE_SECONDS / 2
"""What takes longer is a collective that one of the ranks does not make; all of them report where they are, then."""
GROUP_SECONDS = 1.5 * DEADLINE_SECONDS
IMPORTED = (
    "learner.state",
    "torch.distributed.fsdp",
    "torch.distributed.tensor",
    "peft",
    "transformers.models.qwen2.modeling_qwen2",
    "tests.learner.tiny_models",
    "tools.tiny_families",
)


def in_group(size: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What `function(group, *arguments)` returns at each rank; both are pickled. A rank that fails ends the others."""
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
        results = dict(_results(receivers))
    return [results[rank] for rank in range(size)]


def _results(receivers: list[Connection]) -> Iterator[tuple[int, Any]]:
    """Of each rank, as they come."""
    missing: dict[Any, int] = {receiver: rank for rank, receiver in enumerate(receivers)}
    give_up_at = time.monotonic() + GROUP_SECONDS
    while missing:
        ready = wait(list(missing), max(0.0, give_up_at - time.monotonic()))
        assert ready, f"{len(missing)} of {len(receivers)} ranks have not ended"
        for receiver in ready:
            yield missing.pop(receiver), _result(receiver)


def _result(receiver: Any) -> Any:
    try:
        is_error, result = receiver.recv()
    except EOFError:
        raise AssertionError("a rank has ended without a result") from None
    assert not is_error, result
    return result


@cache
def _context() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*IMPORTED])
    return context


def _as_rank(
    rank: int, size: int, store: str, sender: Connection, function: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    try:
        torch.distributed.init_process_group(
            "gloo",
            init_method=Path(store).as_uri(),
            rank=rank,
            world_size=size,
            timeout=timedelta(seconds=COLLECTIVE_SECONDS),
        )
        sender.send((False, function(Group.joined(torch.device("cpu")), *arguments)))
    except BaseException:
        sender.send((True, f"rank {rank} of {size}: {traceback.format_exc()}"))
        raise
