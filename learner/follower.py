"""A rank other than 0: it makes the calls that rank 0 orders, on a trainer of its own, and nothing else.

It waits for the next call without limit as long as rank 0's heartbeats arrive. Threads beside the main one:

* `_watch`: consumes heartbeats / waits one / unblocked by the clock / produces this process's end when rank 0's are
  missing, and SIGKILL to a rank 0 on this machine that has started this one: frozen, it would hold the group up.
* those of the connection (learner/ranks/channel.py).

SIGTERM and Ctrl-C may reach all ranks: rank 0 decides, and this one ends when it is ordered to.
"""

import logging
import os
import queue
import signal
import socket
import threading
import time
import traceback
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Never

from learner.ranks.channel import HEARTBEAT_SECONDS, Connection, RankMessage, RefusedRankError, present_oneself
from learner.ranks.leader import EXPLAINING_SECONDS, JOIN_SECONDS, LOST_RANK_EXIT_CODE, activity_of, report_lost
from learner.ranks.place import RankPlace, identity
from learner.ranks.silence import Silence
from learner.ranks.team import Beginning, resident_bytes
from tppo.config import Config, ConfigError
from tppo.process.shell import leave_threads
from tppo.security.authentication import Service
from tppo.security.service_tokens import client_token

if TYPE_CHECKING:
    from learner.replica import Replica

logger = logging.getLogger(__name__)

RETRY_SECONDS = 0.2
STOP = "stop"


def follow(config: Config, place: RankPlace) -> Never:
    """Until rank 0 ends this rank; then so does the process. Raises `ConfigError` where rank 0 refuses it."""
    token = client_token(Path(config.run.path), Service.LEARNER)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    follower = Follower(config, place, _opened(place, token, config))
    try:
        follower.run()
    except Exception as error:
        traceback.print_exc()
        time.sleep(EXPLAINING_SECONDS)  # where another rank was lost, rank 0 ends this one meanwhile
        follower.report_failure(error)
        leave_threads(LOST_RANK_EXIT_CODE)
    leave_threads()


def _opened(place: RankPlace, token: str, config: Config) -> socket.socket:
    """The connection, once rank 0 has admitted this one."""
    own = identity(place, config, host=socket.gethostname(), pid=os.getpid())
    deadline = time.monotonic() + JOIN_SECONDS
    host, _, port = _channel(place).rpartition(":")
    while True:
        try:
            opened = socket.create_connection((host, int(port)), timeout=JOIN_SECONDS)
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            present_oneself(opened, token, own)
        except RefusedRankError as refusal:
            raise ConfigError(str(refusal)) from None
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(RETRY_SECONDS)
        else:
            return opened


def _channel(place: RankPlace) -> str:
    if place.channel:
        return place.channel
    from learner.ranks.process_group import published_channel

    return published_channel(JOIN_SECONDS)


class Follower:
    """One rank, for one incarnation of the learner."""

    def __init__(self, config: Config, place: RankPlace, opened: socket.socket) -> None:
        self._config, self._place = config, place
        self._calls: queue.Queue[RankMessage] = queue.Queue()  # rank 0 waits for each, so there are one or two
        self._activity = "starting"
        self._connection = Connection(opened, take=self._calls.put, on_end=self._note_end, beat=self._beat)
        self._silence = Silence(config.learner.rank_timeout_seconds)
        self._connection.start()
        threading.Thread(target=self._watch, daemon=True).start()

    def run(self) -> None:
        """Until the order to stop."""
        first = self._calls.get()
        if first.kind != STOP:
            self._follow(Beginning(**first.fields))
        self._connection.send(RankMessage("left"))
        self._connection.close()

    def _follow(self, beginning: Beginning) -> None:
        from learner.ranks.process_group import leave

        replica = self._loaded(beginning)
        while (call := self._next()).kind != STOP:
            self._activity = activity_of(call)
            replica.make(call)
            self._connection.send(RankMessage("done"))
        leave()

    def report_failure(self, error: Exception) -> None:
        """To rank 0, which ends the group."""
        self._connection.send(RankMessage("failed", {"text": f"{type(error).__name__}: {error}"}))
        self._connection.close()

    def _next(self) -> RankMessage:
        self._activity = "waiting for rank 0"
        return self._calls.get()

    def _loaded(self, beginning: Beginning) -> "Replica":
        """From the checkpoint that rank 0 restores."""
        from transformers.utils.logging import disable_progress_bar

        from learner.ranks.process_group import join
        from learner.replica import Replica
        from tppo.models.denormals import flush_denormals

        flush_denormals()
        disable_progress_bar()  # type: ignore[no-untyped-call]
        roles = join(self._place, beginning.incarnation, self._config)
        self._activity = "loading"
        return Replica.loaded(self._config, beginning, roles)

    def _beat(self) -> Mapping[str, Any]:
        return {"activity": self._activity, "memory_bytes": resident_bytes()}

    def _note_end(self, reason: str) -> None:
        logger.info("the connection to rank 0 has ended: %s", reason)
        os._exit(LOST_RANK_EXIT_CODE)

    def _watch(self) -> None:
        while True:
            time.sleep(HEARTBEAT_SECONDS)
            self._silence.look()
            connection = self._connection
            is_starting = connection.newest_beat.get("activity", "starting") == "starting"
            missing = self._silence.seconds_beyond(connection.heard_at, is_starting=is_starting)
            if missing is not None:
                self._end_now(f"no heartbeat from rank 0 for {missing:.0f} s")

    def _end_now(self, sentence: str) -> Never:
        report_lost(sentence)
        if self._place.leader_pid:
            with suppress(ProcessLookupError):
                os.kill(self._place.leader_pid, signal.SIGKILL)
        os._exit(LOST_RANK_EXIT_CODE)
