"""A rank other than 0 as a process: whom it joins, and what ends it."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from learner.ranks.channel import RankMessage, RefusedRankError, examine, receive
from learner.ranks.place import RankPlace
from tests.support.processes import TPPO
from tests.support.proxy import Mood, Proxy
from tests.support.waiting import DEADLINE_SECONDS

TOKEN = "a token that nobody can guess"
CONFIG = """
[model]
path = "m"
[data]
train_files = ["t.jsonl"]
[learner]
num_processes = 2
rank_timeout_seconds = 1.0
"""

pytestmark = pytest.mark.process


class RankZero:
    """What a rank joins: a socket that listens, and the process that is killed when its heartbeats are missing."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder, self._stack = folder, stack
        self.listening = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        self.listening.settimeout(DEADLINE_SECONDS)
        sleep = [sys.executable, "-S", "-c", "import time; time.sleep(600)"]
        self.process = stack.enter_context(subprocess.Popen(sleep))
        stack.callback(self.process.kill)

    @property
    def port(self) -> int:
        return int(self.listening.getsockname()[1])

    def start(self, rank: int = 1, *, port: int | None = None) -> "subprocess.Popen[str]":
        """A rank's process; `port`: of a proxy before this one's."""
        config = self._folder / "run.toml"
        config.write_text(CONFIG, encoding="utf-8")
        channel = f"127.0.0.1:{port or self.port}"
        place = RankPlace(size=2, local_size=2).environment_of(rank, channel, self.process.pid)
        process = self._stack.enter_context(
            subprocess.Popen(
                [*TPPO, "learner", str(config), f"--set=run.directory={self._folder}"],
                env={**os.environ, **place, "TPPO_LEARNER_TOKEN": TOKEN},
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        self._stack.callback(process.kill)
        return process

    def admitted(self, *, reason: str = "") -> socket.socket:
        """The connection of the next rank; refused where a reason is given."""
        opened, _ = self.listening.accept()
        self._stack.callback(opened.close)
        examine(opened, TOKEN, lambda _: reason, {})
        opened.settimeout(DEADLINE_SECONDS)
        return opened


@pytest.fixture
def rank_zero(tmp_path: Path) -> Iterator[RankZero]:
    with ExitStack() as stack:
        yield RankZero(tmp_path, stack)


def error_of(process: "subprocess.Popen[str]") -> str:
    _, error = process.communicate(timeout=DEADLINE_SECONDS)
    return error


def kinds_until_the_end(opened: socket.socket) -> list[str]:
    kinds = []
    while True:
        try:
            kinds.append(receive(opened).kind)
        except ConnectionResetError:
            return [kind for kind in kinds if kind != "heartbeat"]


def test_a_rank_that_is_refused_says_why_and_ends_as_a_wrong_configuration_does(rank_zero: RankZero) -> None:
    process = rank_zero.start()

    with pytest.raises(RefusedRankError):
        rank_zero.admitted(reason="torch 1.0 on rank 1, torch 2.0 on rank 0; expected the same on every rank")

    assert error_of(process) == (
        "tppo learner: torch 1.0 on rank 1, torch 2.0 on rank 0; expected the same on every rank\n"
    )
    assert process.returncode == 2


def test_sigterm_ends_no_rank_before_rank_0_orders_it(rank_zero: RankZero) -> None:
    process = rank_zero.start()
    opened = rank_zero.admitted()
    assert receive(opened).kind == "heartbeat"

    process.send_signal(signal.SIGTERM)
    beats = [receive(opened).kind for _ in range(2)]
    opened.sendall(RankMessage("heartbeat").encoded() + RankMessage("stop").encoded())

    assert beats == ["heartbeat", "heartbeat"]
    assert kinds_until_the_end(opened) == ["left"]
    error_of(process)
    assert process.returncode == 0


def test_a_rank_that_misses_rank_0s_heartbeats_kills_it_and_ends(rank_zero: RankZero) -> None:
    process = rank_zero.start()
    opened = rank_zero.admitted()

    opened.sendall(RankMessage("heartbeat", {"activity": "training step 3"}).encoded())

    assert rank_zero.process.wait(DEADLINE_SECONDS) == -signal.SIGKILL
    assert "RankError: no heartbeat from rank 0 for " in error_of(process)
    assert process.returncode == 1


def test_a_rank_behind_a_network_that_passes_nothing_kills_rank_0_and_ends(rank_zero: RankZero) -> None:
    with closing(Proxy(rank_zero.port)) as proxy:
        process = rank_zero.start(port=proxy.port)
        opened = rank_zero.admitted()
        opened.sendall(RankMessage("heartbeat", {"activity": "training step 3"}).encoded())
        receive(opened)  # so the other way was open, too

        with proxy.in_mood(Mood.BLACK_HOLE):
            assert rank_zero.process.wait(DEADLINE_SECONDS) == -signal.SIGKILL
            error = error_of(process)

    assert "RankError: no heartbeat from rank 0 for " in error
    assert process.returncode == 1


def test_a_rank_ends_with_the_connection_to_rank_0(rank_zero: RankZero) -> None:
    process = rank_zero.start()

    rank_zero.admitted().close()

    error_of(process)
    assert process.returncode == 1
    assert rank_zero.process.poll() is None


def test_a_rank_does_not_join_who_does_not_know_the_token(rank_zero: RankZero) -> None:
    process = rank_zero.start()
    opened, _ = rank_zero.listening.accept()
    opened.sendall(RankMessage("rank 0", {"nonce": "1"}).encoded())

    said: dict[str, Any] = dict(receive(opened).fields)
    opened.sendall(RankMessage("accepted", {"proof": said["proof"]}).encoded())

    assert "rank 0 does not know this run's token" in error_of(process)
    opened.close()
    assert process.returncode == 1
    assert TOKEN not in str(said)
