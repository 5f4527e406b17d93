"""A program's processes, seen from outside: watched over in total, and killed together.

watch   consumes the kernel's counts of the tree / waits for the first process's end / unblocked by that end, by the
        deadline, or by a total above its limit / produces the cause
"""

import contextlib
import os
import select
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

POLL_SECONDS = 0.02
KILL_SECONDS = 10.0
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Tree:
    """The process `pid` and all below it. When it is the first of a PID namespace, the kernel ends them with it."""

    def __init__(self, pid: int, *, is_namespace: bool) -> None:
        self.pid = pid
        self._is_namespace = is_namespace
        self._pidfd = os.pidfd_open(pid)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        os.close(self._pidfd)

    def watch(self, seconds: float, *, memory_bytes: int, num_processes: int) -> str:
        """Wait until it ends, or must be ended: '' or the cause."""
        deadline = time.monotonic() + seconds
        while not self._has_ended(POLL_SECONDS):
            if time.monotonic() > deadline:
                return f"not done within {seconds:g} s"
            if violation := self.violation(memory_bytes=memory_bytes, num_processes=num_processes):
                return violation
        return ""

    def violation(self, *, memory_bytes: int, num_processes: int) -> str:
        """Which limit on its total the tree is above; '' for none."""
        pids = list(self.processes())
        if _num_tasks(pids) > num_processes:
            return f"more than {num_processes} processes"
        if _has_more_memory(pids, memory_bytes):
            return f"more than {memory_bytes} bytes in all processes together"
        return ""

    def kill(self) -> None:
        """End all processes; returns when they are gone, or raises TimeoutError."""
        with contextlib.suppress(ProcessLookupError):
            if not self._is_namespace:
                self._kill_one_by_one()
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        if not self._has_ended(KILL_SECONDS):
            raise TimeoutError(f"process {self.pid} did not end within {KILL_SECONDS:g} s of SIGKILL")

    def processes(self) -> Iterator[int]:
        """The tree as it stands, from its first process on."""
        found = [self.pid]
        while found:
            yield (pid := found.pop())
            with contextlib.suppress(OSError):  # it ended
                for task in os.listdir(f"/proc/{pid}/task"):
                    found += map(int, Path(f"/proc/{pid}/task/{task}/children").read_text().split())

    def _has_ended(self, seconds: float) -> bool:
        return bool(select.select([self._pidfd], [], [], seconds)[0])

    def _kill_one_by_one(self) -> None:
        for pid in reversed(list(self.processes())):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _num_tasks(pids: list[int]) -> int:
    """Threads, too, as the kernel's own limit counts them."""
    num_tasks = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            num_tasks += len(os.listdir(f"/proc/{pid}/task"))
    return num_tasks


def _has_more_memory(pids: list[int], limit_bytes: int) -> bool:
    """Pages that processes share count once, which the kernel adds up only when the cheap sum is above the limit."""
    if sum(map(_resident_bytes, pids)) <= limit_bytes:
        return False
    return sum(map(_proportional_bytes, pids)) > limit_bytes


def _resident_bytes(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_BYTES
    except OSError:
        return 0


def _proportional_bytes(pid: int) -> int:
    try:
        return _sum_of(Path(f"/proc/{pid}/smaps_rollup"), "Pss:")
    except PermissionError:  # root's without CAP_SYS_PTRACE: everything but the pages of files, though forks share some
        return _sum_of(Path(f"/proc/{pid}/status"), "RssAnon:", "RssShmem:")
    except OSError:
        return 0


def _sum_of(path: Path, *names: str) -> int:
    """The bytes of the lines `NAME N kB`."""
    rows = [line.split() for line in path.read_text().splitlines()]
    return sum(int(row[1]) * 1024 for row in rows if row and row[0] in names)
