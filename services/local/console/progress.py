"""Progress of the processes of `tppo run`: who loads, what the learner waits for, and who is in a crash loop."""

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from services.local.supervision.supervisor import RunningProcess
from tppo.process.presence import LOADED, Presence

HEALTHY_SECONDS = 60.0  # between the first and the last heartbeat of a process that has loaded
LEARNER = "learner"  # has no other purpose than steps and checkpoints


class Milestones:
    """The progress of a run and of its processes, by which a crash loop is known however long it lasts.

    Uptime does not count: loading a large model takes minutes, and a process that always dies thereafter makes no
    progress. Each number only grows.
    """

    def __init__(self) -> None:
        self._step = 0
        self._first_seen: dict[str, tuple[float, float]] = {}  # name -> when the process started, first heartbeat
        self._num_healthy: Counter[str] = Counter()
        self._healthy: dict[str, float] = {}  # name -> when the process started that was counted last

    def reached(self, *steps: int | None) -> None:
        """A training step was taken, or a checkpoint of it committed; one that is taken again is none."""
        self._step = max(self._step, *(step or 0 for step in steps))

    def observe(self, presences: Iterable[Presence]) -> None:
        """The newest heartbeats."""
        for one in (one for one in presences if not one.is_loading):
            started_at, first_seen_at = self._first_seen.get(one.name, (-1.0, 0.0))
            if started_at != one.started_at:
                self._first_seen[one.name] = one.started_at, one.seen_at
            elif one.seen_at - first_seen_at >= HEALTHY_SECONDS and self._healthy.get(one.name) != started_at:
                self._healthy[one.name] = started_at
                self._num_healthy[one.name] += 1

    def of(self, name: str) -> int:
        """A number that has grown when the process, or the whole run, has made progress."""
        return self._step + (0 if name == LEARNER else self._num_healthy[name])


class Loading:
    """Which processes run and have not had a heartbeat yet, or none but those that say what they load."""

    def __init__(self) -> None:
        self._ready: dict[str, int] = {}  # name -> id of the process that has loaded

    def observe(self, presences: Iterable[Presence]) -> None:
        """The newest heartbeats; one that is missing later does not mean that the process loads again."""
        self._ready |= {one.name: one.pid for one in presences if not one.is_loading}

    def among(self, running: Mapping[str, RunningProcess]) -> dict[str, str]:
        """What each of them loads, and since when, in words."""
        found = {}
        for name, process in running.items():
            what = LOADED.get(name.partition("-")[0])
            if what is not None and self._ready.get(name) != process.pid:
                since = time.strftime("%H:%M:%S", time.localtime(process.started_at))
                found[name] = f"loading {what} since {since}"
        return found


def what_the_learner_waits_for(presences: Sequence[Presence]) -> str:
    """In its words; empty while there is none."""
    texts = (str(presence.status.get("waiting_for", "")) for presence in presences if presence.kind == LEARNER)
    return next(texts, "")
