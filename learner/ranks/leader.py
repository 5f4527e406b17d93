"""Rank 0's side: it admits the other ranks, orders their calls, and ends the group when one of them is lost.

Threads, from the first moment on, so that no import and no step holds up a heartbeat (but for the interpreter's lock):

* Those of the admission (learner/ranks/admission.py) and of each connection (learner/ranks/channel.py).
* `_watch`: consumes heartbeats and exits / waits a heartbeat / unblocked by the clock / produces the end of a group
  that has lost a rank: a sentence, SIGKILL to the ranks that this process has started, and its own end. It may be in a
  collective that never returns, so nothing else ends it; `tppo run`, or torchrun, starts the group again.
"""

import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Never, Protocol

from learner.ranks.admission import Admission, Meeting
from learner.ranks.channel import HEARTBEAT_SECONDS, Connection, RankMessage
from learner.ranks.children import Children
from learner.ranks.silence import Silence
from learner.ranks.team import Beginning, RankStatus, resident_bytes
from tppo.config import ConfigError

if TYPE_CHECKING:  # torch takes seconds to import, and ranks are to be there before
    from learner.parallel.roles import Roles

logger = logging.getLogger(__name__)

JOIN_SECONDS = 300.0
"""From the start of rank 0 until the last rank is there: an interpreter starts, under torchrun torch is imported."""
LEAVE_SECONDS = 10.0
LOST_RANK_EXIT_CODE = 1  # of a crash: what started the group starts it again
EXPLAINING_SECONDS = 2 * HEARTBEAT_SECONDS
"""A collective fails at once when a rank dies; the watch, which knows which one, ends this process meanwhile."""


class Door(Protocol):
    """To torch's process group of an incarnation."""

    def prepare(self, incarnation: int) -> None:
        """Before the first rank enters."""

    def enter(self, incarnation: int) -> "Roles":
        """Who trains what, when all ranks have entered."""

    def leave(self) -> None:
        """At an orderly end."""


@dataclass(slots=True)
class Member:
    """A rank that was admitted."""

    host: str
    pid: int
    trains: str  # which models
    connection: Connection
    num_done: int = 0  # calls that it has made
    has_left: bool = False  # in order


@dataclass(slots=True)
class _State:
    """Guarded by the leader's condition."""

    members: dict[int, Member] = field(default_factory=dict)
    refusal: str = ""
    num_calls: int = 0  # that rank 0 has made
    is_ending: bool = False


class Leader:
    """The other ranks, for the learner of rank 0."""

    def __init__(
        self,
        meeting: Meeting,
        *,
        door: Door,
        children: Children,
        fail: Callable[[str], Never] | None = None,
    ) -> None:
        """`children`: the ranks that this process has started."""
        self._meeting, self._door, self._children = meeting, door, children
        self._fail = fail or self._end_now
        self.size = int(meeting.own["size"])
        self._changed = threading.Condition()
        self._state = _State()
        self._turn, self._ends_now = threading.RLock(), threading.Lock()
        self._activity, self._depth = "starting", 0
        self._silence = Silence(meeting.limit_seconds)
        Admission(meeting, self).start()
        threading.Thread(target=self._watch, daemon=True).start()

    def begin(self, beginning: Beginning) -> "Roles":
        """Once all ranks are there. Raises `ConfigError` where one of them cannot be one of the group."""
        deadline = time.monotonic() + JOIN_SECONDS
        with self._changed:
            while len(self._state.members) < self.size - 1 and not self._state.refusal:
                if not self._changed.wait(max(0.0, deadline - time.monotonic())):
                    missing = sorted(set(range(1, self.size)) - self._state.members.keys())
                    self._fail(f"rank {missing[0]} of {self.size} is not there after {JOIN_SECONDS:g} s")
            if self._state.refusal:
                raise ConfigError(self._state.refusal)
        self._door.prepare(beginning.incarnation)
        self._send(RankMessage("begin", asdict(beginning)))
        roles = self._door.enter(beginning.incarnation)
        self._activity = "loading"
        return roles

    @contextmanager
    def making(self, call: RankMessage) -> Iterator[None]:
        """The others make the call at the same time; one that is part of another call is made there."""
        with self._turn:
            if self._depth:
                yield
                return
            self._depth, self._activity = 1, activity_of(call)
            try:
                self._state.num_calls += 1
                self._send(call)
                yield
                self._wait_for(self._state.num_calls)
            except Exception:
                time.sleep(EXPLAINING_SECONDS)
                raise
            finally:
                self._depth, self._activity = 0, "waiting for rows"

    def ranks(self) -> dict[str, RankStatus]:
        """This one, too."""
        own, now = self._meeting.own, time.monotonic()
        trains = str(own.get("trains", ""))
        found = {"0": RankStatus(own["host"], own["pid"], trains, self._activity, 0.0, resident_bytes())}
        with self._changed:
            for rank, member in sorted(self._state.members.items()):
                beat = member.connection.newest_beat
                age = round(now - member.connection.heard_at, 1)
                activity, memory = str(beat.get("activity", "starting")), int(beat.get("memory_bytes", 0))
                found[str(rank)] = RankStatus(member.host, member.pid, member.trains, activity, age, memory)
        return found

    def close(self, *, in_order: bool) -> None:
        """Send the others home; what this process has started has ended when this returns."""
        with self._changed:
            self._state.is_ending = True
            members = list(self._state.members.values())
        self._meeting.listening.close()
        if in_order:
            for member in members:
                member.connection.send(RankMessage("stop"))
            self._door.leave()
            with self._changed:
                self._changed.wait_for(lambda: all(one.has_left for one in members), LEAVE_SECONDS)
            self._children.wait(LEAVE_SECONDS)
        self._children.kill()
        for member in members:
            member.connection.close()

    def _send(self, call: RankMessage) -> None:
        with self._changed:
            for member in self._state.members.values():
                member.connection.send(call)

    def _wait_for(self, number: int) -> None:
        """Until every rank has made the call; one that never does is found by the watch."""
        with self._changed:
            self._changed.wait_for(lambda: all(one.num_done >= number for one in self._state.members.values()))

    @property
    def is_closed(self) -> bool:
        """Whether all ranks are there, or the group ends."""
        with self._changed:
            return self._state.is_ending or len(self._state.members) == self.size - 1

    def admit(self, opened: socket.socket, other: Mapping[str, Any]) -> bool:
        """Take a rank that belongs to the group; False where it is there already."""
        rank = int(other["rank"])
        connection = Connection(
            opened,
            take=lambda message: self._take(rank, message),
            on_end=lambda reason: self._note_end(rank, reason),
            beat=lambda: {"activity": self._activity},
        )
        with self._changed:
            if rank in self._state.members:
                return False
            trains = str(other.get("trains", ""))
            self._state.members[rank] = Member(str(other["host"]), int(other["pid"]), trains, connection)
            connection.start()
            self._changed.notify_all()
        logger.info("rank %d of %d is there: process %s on %s", rank, self.size, other["pid"], other["host"])
        return True

    def refuse(self, sentence: str) -> None:
        """Note that a rank does not belong to the group, which then does not begin."""
        with self._changed:
            self._state.refusal = sentence
            self._changed.notify_all()

    def _take(self, rank: int, message: RankMessage) -> None:
        if message.kind == "failed":
            self._fail(f"{self._name(rank)} failed: {message.fields.get('text')}")
        with self._changed:
            member = self._state.members[rank]
            if message.kind == "done":
                member.num_done += 1
            elif message.kind == "left":
                member.has_left = True
            self._changed.notify_all()

    def _note_end(self, rank: int, reason: str) -> None:
        with self._changed:
            if self._state.is_ending or self._state.members[rank].has_left:
                return
        how = self._children.how_ended(rank, wait_seconds=HEARTBEAT_SECONDS)
        self._fail(f"rank {rank} {how}" if how else f"{self._name(rank)} is lost: {reason}")

    def _watch(self) -> None:
        while True:
            time.sleep(HEARTBEAT_SECONDS)
            self._silence.look()
            try:
                reason = self._loss()
            except Exception as error:  # whatever it is, nobody else would find that nothing is watched
                reason = f"the watch of the ranks failed: {error!r}"
            if reason is None:
                return
            if reason:
                self._fail(reason)

    def _loss(self) -> str | None:
        """What is wrong with a rank, empty where nothing is; None when the group ends in order."""
        with self._changed:
            if self._state.is_ending:
                return None
            members, is_refused = dict(self._state.members), bool(self._state.refusal)
        for rank in self._children:
            if rank not in members and not is_refused and (how := self._children.how_ended(rank)):
                return f"rank {rank} {how} before it was in the group"
        for rank, member in members.items():
            connection = member.connection
            is_starting = connection.newest_beat.get("activity", "starting") == "starting"
            missing = self._silence.seconds_beyond(connection.heard_at, is_starting=is_starting)
            if missing is not None:
                return f"no heartbeat from {self._name(rank)} for {missing:.0f} s"
        return ""

    def _name(self, rank: int) -> str:
        member = self._state.members[rank]
        return f"rank {rank} (PID {member.pid} on {member.host}, {member.connection.newest_beat.get('activity', '')})"

    def _end_now(self, sentence: str) -> Never:
        self._ends_now.acquire()  # of two threads that find it out, the first one reports it
        report_lost(sentence)
        self._children.kill()
        os._exit(LOST_RANK_EXIT_CODE)


def report_lost(sentence: str) -> None:
    """Why this group ends, as the line that `tppo run` shows."""
    text = f"RankError: {sentence}; the group ends, and begins again from the newest checkpoint"
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def activity_of(call: RankMessage) -> str:
    """What a rank does while it makes the call."""
    return f"training step {call.fields['policy_version'] + 1}" if call.kind == "step" else call.kind
