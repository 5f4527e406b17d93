"""CPU seconds and memory of a `tppo run`, by what its processes are for, read from /proc twice a second.

What a process had used when it was last seen counts after its end, so the seconds never fall. A process that is none of
ours by its command line, such as a worker of the reward service, counts to the one that started it.
"""

import os
import threading
import time
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Self

TICKS = os.sysconf("SC_CLK_TCK")
PAGE_MB = os.sysconf("SC_PAGE_SIZE") / 2**20
INTERVAL_SECONDS = 0.5
KINDS = ("learner", "generation", "reward", "dashboard", "redis", "supervisor")
VERBS = {kind: kind for kind in KINDS[:4]} | {"run": "supervisor"}
SERVERS = ("valkey-server", "redis-server")


@dataclass(frozen=True, slots=True)
class Process:
    """One process at one moment."""

    pid: int
    kind: str
    cpu_seconds: float
    memory_mb: float


@dataclass(frozen=True, slots=True)
class Sample:
    """All of them at one moment, in seconds since the epoch."""

    time: float
    cpu_seconds: Mapping[str, float]
    memory_mb: Mapping[str, float]


def kind_of(command: Sequence[str], *, of_parent: str) -> str:
    """By the command line: `python -m tppo VERB`, or Redis; else what the process that started it is for."""
    if command and Path(command[0]).name.startswith(SERVERS):  # it writes its address behind its name
        return "redis"
    for flag, module, verb in zip(command, command[1:], command[2:], strict=False):
        if (flag, module) == ("-m", "tppo"):
            return VERBS.get(verb, of_parent)
    return of_parent


def tree(pid: int, *, of_parent: str = "supervisor") -> Iterator[Process]:
    """The process and all below it; those that have ended, or end meanwhile, are left out."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        lists = [file.read_text().split() for file in Path(f"/proc/{pid}/task").glob("*/children")]
    except OSError:
        return
    if not any(command):  # it has ended, and would count a second time, as of its parent's kind
        return
    kind = kind_of(command, of_parent=of_parent)
    yield Process(pid, kind, (int(fields[11]) + int(fields[12])) / TICKS, pages * PAGE_MB)
    for child in chain.from_iterable(lists):
        yield from tree(int(child), of_parent=kind)


class ProcessWatch:
    """Watches a process and all below it while its context is open."""

    def __init__(self, pid: int, *, interval_seconds: float = INTERVAL_SECONDS) -> None:
        self._pid, self._interval_seconds = pid, interval_seconds
        self._cpu: dict[tuple[str, int], float] = {}  # of each process, ended ones too
        self._samples: list[Sample] = []
        self._has_ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="process watch", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._has_ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._has_ended.is_set():
            self.look()
            self._has_ended.wait(self._interval_seconds)

    def look(self) -> None:
        """Take a sample now."""
        memory: defaultdict[str, float] = defaultdict(float)
        for process in tree(self._pid):
            self._cpu[process.kind, process.pid] = process.cpu_seconds
            memory[process.kind] += process.memory_mb
        total: defaultdict[str, float] = defaultdict(float)
        for (kind, _), seconds in self._cpu.items():
            total[kind] += seconds
        self._samples.append(Sample(time.time(), dict(total), dict(memory)))

    def cpu_seconds(self, start: float, end: float) -> dict[str, float]:
        """Used between two moments, by kind."""
        return cpu_between(self._samples, start, end)

    def memory_mb(self, start: float, end: float) -> dict[str, float]:
        """The largest resident size between two moments, by kind; shared pages count in each process."""
        return largest_memory(self._samples, start, end)


def cpu_between(samples: Sequence[Sample], start: float, end: float) -> dict[str, float]:
    """On straight lines between the samples."""
    kinds = {kind for sample in samples for kind in sample.cpu_seconds}
    return {kind: _at(samples, kind, end) - _at(samples, kind, start) for kind in sorted(kinds)}


def largest_memory(samples: Sequence[Sample], start: float, end: float) -> dict[str, float]:
    found: dict[str, float] = {}
    for sample in samples:
        if start <= sample.time <= end:
            for kind, size in sample.memory_mb.items():
                found[kind] = max(found.get(kind, 0.0), size)
    return found


def _at(samples: Sequence[Sample], kind: str, moment: float) -> float:
    after = bisect_left(samples, moment, key=lambda sample: sample.time)
    if after == 0:
        return samples[0].cpu_seconds.get(kind, 0.0)
    before = samples[after - 1]
    seconds = before.cpu_seconds.get(kind, 0.0)
    if after == len(samples):
        return seconds
    share = (moment - before.time) / (samples[after].time - before.time)
    return seconds + share * (samples[after].cpu_seconds.get(kind, 0.0) - seconds)
