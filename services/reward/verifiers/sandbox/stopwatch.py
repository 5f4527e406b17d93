"""How long processes took by themselves, which is what a deadline of a test counts: not what others made them wait.

Their time is the processor time of all of them, and the time in which none of them could run: one that sleeps, or waits
for what never comes, uses it up too. A process that waits for a processor does not, so a busy machine fails no test.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from services.reward.verifiers.sandbox.tree import POLL_SECONDS, Tree

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
RUNNABLE = {"R", "D"}  # D: waits for a disk, which others may keep busy


@dataclass(frozen=True, slots=True)
class _Seen:
    cpu_seconds: float
    can_run: bool


class Stopwatch:
    """Of several trees at once; `look` has to be called every `POLL_SECONDS`."""

    def __init__(self, trees: Sequence[Tree]) -> None:
        self._trees = trees
        self.restart()

    def restart(self) -> None:
        """Begin at zero."""
        self._start = self._last = self._cpu_seconds()
        self._idle_seconds = 0.0

    def look(self) -> float:
        """The seconds of their own so far."""
        seen = [_seen(pid) for tree in self._trees for pid in tree.processes()]
        cpu_seconds = sum(one.cpu_seconds for one in seen)
        if cpu_seconds <= self._last and not any(one.can_run for one in seen):
            self._idle_seconds += POLL_SECONDS
        self._last = max(self._last, cpu_seconds)
        return self._last - self._start + self._idle_seconds

    def _cpu_seconds(self) -> float:
        return sum(_seen(pid).cpu_seconds for tree in self._trees for pid in tree.processes())


def _seen(pid: int) -> _Seen:
    """The processor time of the process and of its children that have ended, and whether a thread of it could go on."""
    try:
        fields = _fields(Path(f"/proc/{pid}/stat"))
        states = [_fields(Path(f"/proc/{pid}/task/{task}/stat"))[0] for task in os.listdir(f"/proc/{pid}/task")]
    except (OSError, IndexError):  # it ended
        return _Seen(0.0, can_run=False)
    return _Seen(sum(map(int, fields[11:15])) / TICKS_PER_SECOND, not RUNNABLE.isdisjoint(states))


def _fields(path: Path) -> list[str]:
    """From the state on; the name before it may hold spaces and brackets."""
    return path.read_text().rpartition(") ")[2].split()
