"""Starts the ranks of a group as processes that talk over gloo: `python -m tests.learner.parallel.rank_processes`.

One process imports everything and forks the ranks, group after group, before anything is computed in it.
"""

import json
import os
import subprocess
import sys
import traceback
import warnings
from collections.abc import Callable
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch.distributed import destroy_process_group, init_process_group

from learner.parallel.group import Group
from tests.support.waiting import DEADLINE_SECONDS

LIMIT_SECONDS = 4 * DEADLINE_SECONDS
Case = Callable[[Group], Any]


def found_by(cases: str, sizes: tuple[int, ...], folder: Path) -> dict[int, dict[str, Any]]:
    """What the `CASES` of this module find in groups of these sizes, by the size and the name of the case."""
    root = Path(__file__).parents[3]
    command = [sys.executable, "-m", __name__, cases, str(folder), *map(str, sizes)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=LIMIT_SECONDS, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return {size: json.loads((folder / f"{size}.json").read_text()) for size in sizes}


def run_group(cases: dict[str, Case], size: int, folder: Path) -> bool:
    """Fork the ranks and wait for them; when one fails, the others, which would wait for it, are ended."""
    ranks = {_forked(cases, rank, size, folder): rank for rank in range(size)}
    is_good = True
    while ranks:
        pid, status = os.wait()
        ranks.pop(pid, None)
        if status != 0 and is_good:
            is_good = False
            for other in ranks:
                os.kill(other, 9)
    return is_good


def _forked(cases: dict[str, Case], rank: int, size: int, folder: Path) -> int:
    if pid := os.fork():
        return pid
    status = 1
    try:
        _rank(cases, rank, size, folder)
        status = 0
    except BaseException:
        sys.stderr.write(f"rank {rank} of {size}: {traceback.format_exc()}")
    os._exit(status)


def _rank(cases: dict[str, Case], rank: int, size: int, folder: Path) -> None:
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    init_process_group(
        "gloo",
        init_method=f"file://{folder / f'{size}.store'}",
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=DEADLINE_SECONDS),
    )
    group = Group.joined(torch.device("cpu"))
    found = {name: case(group) for name, case in cases.items()}
    if rank == 0:
        (folder / f"{size}.json").write_text(json.dumps(found))
    destroy_process_group()


if __name__ == "__main__":
    module, into, *group_sizes = sys.argv[1:]
    all_cases = import_module(module).CASES
    sys.exit(not all(run_group(all_cases, int(size), Path(into)) for size in group_sizes))
