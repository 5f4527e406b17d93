"""How a learner of several processes starts: rank 0 listens, starts the others unless torchrun does, and leads them."""

import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from learner.ranks.admission import Meeting
from learner.ranks.children import Children
from learner.ranks.leader import Leader
from learner.ranks.place import RankPlace, identity
from learner.ranks.team import Alone, Team
from tppo.config import Config
from tppo.security.authentication import Service
from tppo.security.service_tokens import client_token

if TYPE_CHECKING:  # torch takes seconds to import, and ranks are to be there before
    from learner.parallel.roles import Roles

LOOPBACK = "127.0.0.1"


@contextmanager
def leading(place: RankPlace, config: Config, arguments: Sequence[str]) -> Iterator[Team]:
    """The other ranks of the learner; nobody where it is one process. `arguments`: of `tppo learner`.

    The ranks that this process starts end with the thread that enters this block.
    """
    if place.size == 1:
        yield Alone()
        return
    folder, host = Path(config.run.path), LOOPBACK if place.is_one_machine else ""
    listening = socket.create_server((host, 0))
    channel = f"{host or place.master}:{listening.getsockname()[1]}"
    meeting = Meeting(
        listening,
        client_token(folder, Service.LEARNER),
        identity(place, config, host=socket.gethostname(), pid=os.getpid()),
        config.learner.rank_timeout_seconds,
    )
    children = Children({}) if place.master else Children.started(place, channel, arguments)
    leader = Leader(meeting, door=TorchDoor(place, config), children=children)
    if place.master:
        from learner.ranks.process_group import publish_channel  # torch takes seconds to import

        publish_channel(channel)
    try:
        yield leader
    except BaseException:
        leader.close(in_order=False)
        raise
    leader.close(in_order=True)


@dataclass(frozen=True, slots=True)
class TorchDoor:
    """To torch's process group; torch is imported when the ranks have been started."""

    place: RankPlace
    config: Config

    def prepare(self, incarnation: int) -> None:
        """Delete what earlier incarnations met in."""
        from learner.ranks.process_group import make_way

        make_way(Path(self.config.run.path))

    def enter(self, incarnation: int) -> "Roles":
        """Who trains what, when all ranks have entered."""
        from learner.ranks.process_group import join

        return join(self.place, incarnation, self.config)

    def leave(self) -> None:
        """At an orderly end."""
        from learner.ranks.process_group import leave

        leave()
