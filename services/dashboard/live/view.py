"""A run as one request sees it: its folder, and Redis' answers when it is the live run."""

import time
from dataclasses import dataclass

from services.dashboard.history.catalog import Catalog
from services.dashboard.history.run import RunHistory
from services.dashboard.live.source import Observation, Observer
from tppo.process.presence import GONE_AFTER_SECONDS, Presence
from tppo.run_folder.ending import RunEnding, ending_of

STILL_WRITTEN_SECONDS = 30.0
"""Without Redis, a run whose files grew this lately is taken for running."""


@dataclass(frozen=True)
class View:
    """One run at one moment."""

    history: RunHistory
    observation: Observation
    is_live: bool
    """Redis knows it; another run is read from its folder alone."""
    ending: RunEnding | None = None
    """How it ended, where it has and no later session has begun."""

    @property
    def now(self) -> float:
        """Seconds since the epoch, by the clock that the heartbeats bear."""
        return self.observation.now

    @property
    def learner(self) -> Presence | None:
        """The learner with the newest heartbeat, alive or not."""
        learners = self.presences("learner")
        return max(learners, key=lambda presence: presence.seen_at, default=None)

    @property
    def is_learner_alive(self) -> bool:
        """Whether the learner's last heartbeat is recent."""
        return self.learner is not None and self.is_alive(self.learner)

    @property
    def is_learner_loading(self) -> bool:
        """Whether it has heartbeats and cannot train yet."""
        return self.learner is not None and self.is_alive(self.learner) and self.learner.is_loading

    def presences(self, kind: str) -> list[Presence]:
        """Of one kind of process."""
        return [presence for presence in self.observation.presences if presence.kind == kind]

    def disproved_generators(self) -> dict[str, tuple[bool, str]]:
        """Those that compute otherwise than the learner: whether there is a heartbeat, and how far they are apart."""
        return {
            one.name: (self.is_alive(one), str(one.status["proof_error"]))
            for one in self.presences("generation")
            if one.status.get("proof_error")
        }

    def is_alive(self, presence: Presence) -> bool:
        """Whether its last heartbeat is recent."""
        return self.now - presence.seen_at <= GONE_AFTER_SECONDS

    def is_written(self) -> bool:
        """Whether its files have grown lately."""
        last = self.history.last_time
        return last is not None and abs(time.time() - last) <= STILL_WRITTEN_SECONDS


class Views:
    """Makes views of the runs of a folder; `observer` looks at the live one, if there is a live one."""

    def __init__(self, catalog: Catalog, observer: Observer | None = None) -> None:
        self.catalog = catalog
        self.observer = observer
        self._began_at = time.time()

    async def of(self, name: str | None = None) -> View:
        """The named run, else the live one, else the newest. Raises `NoSuchRunError`."""
        history = await self.catalog.run(name)
        is_live = self.observer is not None and history.name == self.catalog.live
        observation = await self.observer.current() if self.observer and is_live else Observation(now=time.time())
        return View(history, observation, is_live, self._ending(history, is_live=is_live))

    def _ending(self, history: RunHistory, *, is_live: bool) -> RunEnding | None:
        """That of a live run counts if it came after the start of this process, which was started for a new session."""
        ending = ending_of(history.paths)
        return None if is_live and ending is not None and ending.written_at < self._began_at else ending
