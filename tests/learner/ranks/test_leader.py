"""Rank 0 admits who belongs to the group, gives each call to all, and ends a group that has lost a rank."""

import queue
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from typing import Any, Never

import pytest

from learner.parallel.roles import TOGETHER, Roles
from learner.ranks.admission import Meeting
from learner.ranks.channel import (
    ChannelError,
    Connection,
    RankMessage,
    RefusedRankError,
    present_oneself,
)
from learner.ranks.children import Children
from learner.ranks.leader import Leader
from learner.ranks.team import Beginning
from tests.support.proxy import Mood, Proxy
from tests.support.waiting import wait_until
from tppo.config import ConfigError

TOKEN = "the token of this run"
BEGINNING = Beginning(incarnation=4, step=8, settings={"actor.lr": 1e-4})


def an_identity(rank: int, size: int = 2, *, torch: str = "2.8") -> dict[str, Any]:
    versions = {"torch": torch}
    return {"rank": rank, "size": size, "host": "h", "pid": 10 + rank, "versions": versions, "settings": {}}


class Doors:
    """In place of torch's process group."""

    def __init__(self) -> None:
        self.passed: list[object] = []

    def prepare(self, incarnation: int) -> None:
        self.passed.append(("prepared", incarnation))

    def enter(self, incarnation: int) -> Roles:
        self.passed.append(("entered", incarnation))
        return TOGETHER

    def leave(self) -> None:
        self.passed.append("left")


class Rank:
    """The other end of a connection to rank 0, in a thread of the test."""

    def __init__(self, port: int, rank: int, *, token: str = TOKEN, size: int = 2, torch: str = "2.8") -> None:
        self.taken: queue.Queue[RankMessage] = queue.Queue()
        self.ended: queue.Queue[str] = queue.Queue()
        self.opened = socket.create_connection(("127.0.0.1", port))
        try:
            present_oneself(self.opened, token, an_identity(rank, size, torch=torch))
        except Exception:
            self.opened.close()
            raise
        self.connection = Connection(
            self.opened,
            take=self.taken.put,
            on_end=self.ended.put,
            beat=lambda: {"activity": "waiting", "memory_bytes": 5},
        )
        self.connection.start()

    def make_calls(self) -> None:
        """Those that come, until the order to stop."""
        while (call := self.taken.get()).kind != "stop":
            if call.kind != "begin":
                self.connection.send(RankMessage("done"))
        self.connection.send(RankMessage("left"))


class LedGroup:
    """A leader whose end is noted instead of the process's."""

    def __init__(self, stack: ExitStack, children: Children, *, size: int, limit_seconds: float) -> None:
        self.failures: queue.Queue[str] = queue.Queue()
        self.doors = Doors()
        listening = socket.create_server(("127.0.0.1", 0))
        self.port = listening.getsockname()[1]
        meeting = Meeting(listening, TOKEN, an_identity(0, size), limit_seconds)
        self.leader = Leader(meeting, door=self.doors, children=children, fail=self._fail)
        self._others = stack.enter_context(ExitStack())
        stack.callback(lambda: self.leader.close(in_order=False))  # before the others, whose ends it would note

    def joined_by(self, rank: int, *, size: int = 2, port: int | None = None) -> Rank:
        """`port`: of a proxy before the leader's."""
        other = Rank(port or self.port, rank, size=size)
        self._others.callback(other.connection.close)
        return other

    def _fail(self, sentence: str) -> Never:
        self.failures.put(sentence)
        while True:  # the thread does no more than one whose process ends
            threading.Event().wait()


@pytest.fixture
def new_group() -> Iterator[Callable[..., LedGroup]]:
    with ExitStack() as stack:

        def new(children: Children | None = None, *, size: int = 2, limit_seconds: float = 60.0) -> LedGroup:
            return LedGroup(stack, children or Children({}), size=size, limit_seconds=limit_seconds)

        yield new


def test_every_rank_begins_with_what_rank_0_begins_with(new_group: Callable[..., LedGroup]) -> None:
    group = new_group(size=3)
    others = [group.joined_by(rank, size=3) for rank in (2, 1)]

    group.leader.begin(BEGINNING)

    assert [Beginning(**other.taken.get().fields) for other in others] == [BEGINNING, BEGINNING]
    assert group.doors.passed == [("prepared", 4), ("entered", 4)]


def test_a_call_is_over_when_every_rank_has_made_it(new_group: Callable[..., LedGroup]) -> None:
    group = new_group(size=3)
    others = [group.joined_by(rank, size=3) for rank in (1, 2)]
    group.leader.begin(BEGINNING)
    is_over = threading.Event()

    def make() -> None:
        with group.leader.making(RankMessage("step", {"policy_version": 7})):
            assert group.leader.ranks()["0"].activity == "training step 8"
        is_over.set()

    calling = threading.Thread(target=make)
    calling.start()
    for other in others:
        assert [other.taken.get().kind for _ in range(2)] == ["begin", "step"]
    others[0].connection.send(RankMessage("done"))
    was_over_early = is_over.is_set()
    others[1].connection.send(RankMessage("done"))
    calling.join()

    assert not was_over_early
    assert is_over.is_set()


def test_a_call_within_a_call_is_not_sent_once_more(new_group: Callable[..., LedGroup]) -> None:
    group = new_group()
    other = group.joined_by(1)
    group.leader.begin(BEGINNING)
    following = threading.Thread(target=other.make_calls)
    following.start()

    with group.leader.making(RankMessage("outer")), group.leader.making(RankMessage("inner")):
        pass
    group.leader.close(in_order=True)
    following.join()

    assert other.taken.empty()
    assert group.doors.passed[-1] == "left"


def test_a_rank_without_the_token_is_not_admitted(new_group: Callable[..., LedGroup]) -> None:
    group = new_group()

    with pytest.raises((ChannelError, OSError)):
        Rank(group.port, 1, token="another token")

    group.joined_by(1)
    group.leader.begin(BEGINNING)


def test_bytes_that_are_no_message_are_not_admitted(new_group: Callable[..., LedGroup]) -> None:
    group = new_group()
    with socket.create_connection(("127.0.0.1", group.port)) as opened:
        opened.sendall(b"GET / HTTP/1.1\r\nHost: rank-0\r\n\r\n")
        with suppress(ConnectionResetError):
            while opened.recv(4096):
                pass

    group.joined_by(1)
    group.leader.begin(BEGINNING)


def test_ranks_of_other_versions_are_refused_on_both_sides(new_group: Callable[..., LedGroup]) -> None:
    group = new_group()
    sentence = "torch 2.9 on rank 1 on h, torch 2.8 on rank 0; expected the same on every rank"

    with pytest.raises(RefusedRankError, match=re.escape(sentence)):
        Rank(group.port, 1, torch="2.9")
    with pytest.raises(ConfigError, match=re.escape(sentence)):
        group.leader.begin(BEGINNING)


def test_a_second_process_of_the_same_rank_is_refused(new_group: Callable[..., LedGroup]) -> None:
    group = new_group(size=3)
    group.joined_by(1, size=3)

    second = group.joined_by(1, size=3)

    assert second.ended.get() == "the connection has ended"
    assert group.leader.ranks().keys() == {"0", "1"}


def test_nobody_joins_a_group_that_is_whole(new_group: Callable[..., LedGroup]) -> None:
    group = new_group()
    group.joined_by(1)
    group.leader.begin(BEGINNING)

    def is_closed() -> bool:
        try:
            socket.create_connection(("127.0.0.1", group.port)).close()
        except ConnectionRefusedError:
            return True
        return False

    wait_until(is_closed, "the end of listening")


def test_a_rank_whose_connection_ends_ends_the_group(new_group: Callable[..., LedGroup]) -> None:
    group = new_group()
    other = group.joined_by(1)
    group.leader.begin(BEGINNING)

    other.opened.shutdown(socket.SHUT_RDWR)

    assert group.failures.get().startswith("rank 1 (PID 11 on h, ")


def test_a_rank_whose_heartbeat_is_missing_ends_the_group(new_group: Callable[..., LedGroup]) -> None:
    group = new_group(limit_seconds=2.0)
    listening = socket.create_connection(("127.0.0.1", group.port))
    present_oneself(listening, TOKEN, an_identity(1))  # it is there, and sends no heartbeat
    listening.sendall(RankMessage("heartbeat", {"activity": "waiting"}).encoded())

    sentence = group.failures.get()
    listening.close()

    assert sentence.startswith("no heartbeat from rank 1 (PID 11 on h, waiting) for ")


def test_a_rank_behind_a_network_that_passes_nothing_ends_the_group(new_group: Callable[..., LedGroup]) -> None:
    group = new_group(limit_seconds=2.0)
    with closing(Proxy(group.port)) as proxy:
        other = group.joined_by(1, port=proxy.port)
        group.leader.begin(BEGINNING)
        wait_until(lambda: group.leader.ranks()["1"].activity, "a heartbeat", is_met=lambda one: one == "waiting")

        with proxy.in_mood(Mood.BLACK_HOLE):
            sentence = group.failures.get()
            was_connected = other.ended.empty()
        other.connection.close()

    assert sentence.startswith("no heartbeat from rank 1 (PID 11 on h, waiting) for ")
    assert was_connected


def test_a_rank_that_fails_says_why(new_group: Callable[..., LedGroup]) -> None:
    group = new_group()
    other = group.joined_by(1)
    group.leader.begin(BEGINNING)

    other.connection.send(RankMessage("failed", {"text": "OutOfMemoryError: 3 GB"}))

    assert group.failures.get().endswith("failed: OutOfMemoryError: 3 GB")


def test_a_process_that_ends_before_it_is_in_the_group_ends_it(new_group: Callable[..., LedGroup]) -> None:
    child = subprocess.Popen([sys.executable, "-S", "-c", "raise SystemExit(7)"])

    group = new_group(Children({1: child}))

    assert group.failures.get() == f"rank 1 (PID {child.pid}) exited with code 7 before it was in the group"


def test_a_child_is_gone_when_the_group_is_closed(new_group: Callable[..., LedGroup]) -> None:
    child = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"])
    group = new_group(Children({1: child}))

    group.leader.close(in_order=False)

    assert child.wait() == -9


def test_the_status_says_where_each_rank_is_and_what_it_does(new_group: Callable[..., LedGroup]) -> None:
    group = new_group()
    group.joined_by(1)

    known = wait_until(lambda: group.leader.ranks().get("1"), "rank 1", is_met=lambda one: one and one.memory_bytes)

    assert known is not None
    assert (known.host, known.pid, known.activity, known.memory_bytes) == ("h", 11, "waiting", 5)
    assert group.leader.ranks()["0"].memory_bytes > 0
