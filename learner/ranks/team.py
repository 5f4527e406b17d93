"""What rank 0's learner needs of the other ranks, and a learner that is one process, which has none."""

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from learner.ranks.channel import RankMessage

if TYPE_CHECKING:  # torch takes seconds to import, and ranks are to be there before
    from learner.parallel.roles import Roles


@dataclass(frozen=True, slots=True)
class RankStatus:
    """One rank, as of its newest heartbeat."""

    host: str
    pid: int
    trains: str  # which models
    activity: str
    heartbeat_age_seconds: float
    memory_bytes: int  # resident; 0 where that is not known


@dataclass(frozen=True, slots=True)
class Beginning:
    """What all ranks of one incarnation begin with."""

    incarnation: int
    step: int | None  # of the checkpoint that is restored; None: the run begins
    settings: Mapping[str, Any]  # those that the checkpoint has come to, by key


class Team(Protocol):
    """The ranks, for rank 0."""

    @property
    def size(self) -> int:
        """Of the whole group."""

    def begin(self, beginning: Beginning) -> "Roles":
        """The other ranks load what this one is about to load; who trains what, once all are in one group."""

    def making(self, call: RankMessage) -> AbstractContextManager[None]:
        """The time in which this rank makes the call: the others make it too, and have made it at the end."""

    def ranks(self) -> dict[str, RankStatus]:
        """By number."""


class Alone:
    """A learner that is one process."""

    size = 1

    def begin(self, beginning: Beginning) -> "Roles":
        """There is nobody to begin with."""
        from learner.parallel.roles import TOGETHER

        return TOGETHER

    def making(self, call: RankMessage) -> AbstractContextManager[None]:
        """There is nobody to make it with."""
        return nullcontext()

    def ranks(self) -> dict[str, RankStatus]:
        """None besides the learner."""
        return {}


ALONE = Alone()


def resident_bytes() -> int:
    """Of this process; 0 where the system does not say."""
    try:
        num_pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError):
        return 0
    return num_pages * os.sysconf("SC_PAGE_SIZE")
