"""A `tppo run` whose Redis belongs to the test: everything in it can be killed, frozen and cut off."""

import asyncio
import contextlib
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from tests.faults import poison
from tests.support.fork_server import ForkServer
from tests.support.processes import TPPO, is_running, output_of
from tests.support.proxy import Mood, Proxy
from tests.support.quickstart_run import NEVER_ENDS, Run
from tests.support.redis_server import Redis
from tests.support.waiting import wait_until
from tppo.process.presence import Presence, present
from tppo.run_folder.checkpoints import CheckpointFolder
from tppo.run_folder.paths import RunPaths
from tppo.security.record_keys import kept_records
from tppo.streams.connection import SOCKET_TIMEOUT_SECONDS, RedisClient, connect

NUM_GENERATORS = 2
PROXY_HOST = "127.0.0.2"  # the loopback, too: there the generators' ports lead through proxies
FREEZE_SECONDS = 3.0  # longer than a lease of SMALL
LONG_FREEZE_SECONDS = SOCKET_TIMEOUT_SECONDS + 2.0
MINUTE_SECONDS = 60.0
TROUBLE_SECONDS = 2.0
HOUR_MILLISECONDS = 3_600_000
VERB_SECONDS = 900.0
SETTINGS = {
    "trace.enabled": "true",
    "evaluation.test_freq": "0",
    "critic.warmup_steps": "1",
    "redis.max_deliveries": "50",  # what is killed here is innocent
    "run.watchdog_seconds": "5",
    **NEVER_ENDS,  # `finish` chooses another number, so
    "actor.lr_decay": "constant",  # no rate may depend on it
    "critic.lr_decay": "constant",
    "generation.replicas": str(NUM_GENERATORS),
    "generation.advertise_host": PROXY_HOST,
    "generation.share_weight_memory": "false",  # the weights pass through the proxies
}

SEVERAL_RANKS = {"learner.num_processes": "2", "learner.rank_timeout_seconds": "5"}
VALUE_MODEL_APART = {"critic.num_processes": "1", "learner.rank_timeout_seconds": "5"}

T = TypeVar("T")


def free_ports(count: int) -> int:
    """The first of so many consecutive ones, below those from which the kernel gives outgoing connections theirs:
    a connection of any process on the machine takes such a port while a run is down.
    """
    while True:
        first = random.randrange(20_000, 30_000)
        try:
            for port in range(first, first + count):
                socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        return first


class ChaoticRun(Run):
    """The quick start with two generators; proxies stand before Redis and before the generators' gRPC servers."""

    def __init__(
        self, folder: Path, *, fork_server: ForkServer | None = None, options: Sequence[str] = (), **settings: str
    ) -> None:
        """With a fork server, its processes are forked from that and need not import torch."""
        self._fork_server = fork_server
        self.program = TPPO if fork_server is None else (str(fork_server.python), *TPPO[1:])
        self.redis = Redis(folder / "redis")
        self.proxy = Proxy(self.redis.port)
        self.redis_url = f"redis://127.0.0.1:{self.proxy.port}/0"
        first_port = free_ports(NUM_GENERATORS)
        self.weight_proxies = [
            Proxy(port, host=PROXY_HOST, port=port) for port in range(first_port, first_port + NUM_GENERATORS)
        ]
        own = {"redis.url": self.redis_url, "generation.port": str(first_port)}
        super().__init__(folder, program=self.program, options=options, **{**SETTINGS, **own, **settings})

    def close(self) -> None:
        """Leave nothing running, whatever happened."""
        try:
            super().close()
        finally:
            for proxy in (self.proxy, *self.weight_proxies):
                proxy.close()
            self.redis.kill()

    def newest_step(self) -> int:
        """The newest that was taken or committed: a killed learner loses lines of its metrics, a full disk too."""
        committed = CheckpointFolder(RunPaths(self.folder).checkpoints).complete_steps()
        return max([self.num_steps_done, *committed])

    def finish(self, *, num_more_steps: int) -> None:
        """Interrupt the run, go on, and let it come to its last step, which is the next but so many."""
        self.interrupt()
        self.resume(**{"run.total_training_steps": str(self.num_steps_done + num_more_steps)})
        self.end()

    def wait_for_status(self, is_awaited: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
        """What the learner says of itself, once it has loaded and says that."""

        def look() -> list[dict[str, Any]]:
            learners = [one for one in asyncio.run(self._present()) if one.kind == "learner"]
            statuses = [one.status for one in learners if not one.is_loading]
            return [status for status in statuses if is_awaited(status)]

        return self.wait_for(look, "the awaited status of the learner")[0]

    async def _present(self) -> list[Presence]:
        async with await connect(self.redis_url) as client:
            return await present(client, "quickstart")

    @contextmanager
    def frozen(self, process_id: int) -> Iterator[None]:
        os.kill(process_id, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(process_id, signal.SIGCONT)

    def freeze(self, name: str) -> None:
        with self.frozen(self.process_id(name)):
            time.sleep(FREEZE_SECONDS)

    def lose_rank(self, name: str, number: signal.Signals) -> float:
        """SIGKILL, or SIGSTOP that nobody ends, to a rank of the learner; the seconds until the next group begins."""
        before, process_id = self.incarnation(), self.process_id(name)
        began = time.monotonic()
        os.kill(process_id, number)
        self.wait_for(lambda: self.incarnation() > before, "the next incarnation of the learner")
        return time.monotonic() - began

    def trouble(self, mood: Mood) -> None:
        with self.proxy.in_mood(mood):
            time.sleep(TROUBLE_SECONDS)

    def trouble_weights(self, mood: Mood) -> None:
        """From the moment at which new weights go out."""
        self._wait_for_new_weights()
        with contextlib.ExitStack() as stack:
            for proxy in self.weight_proxies:
                stack.enter_context(proxy.in_mood(mood))
            time.sleep(TROUBLE_SECONDS)

    def kill_redis(self) -> None:
        self.redis.kill()
        time.sleep(TROUBLE_SECONDS / 2)
        self.redis.start()

    def lose_last_second(self) -> None:
        """Redis dies with its machine: what it had not synced is gone, though it was acknowledged."""
        path, num_bytes = self.redis.written()
        time.sleep(1.0)
        self.redis.kill()
        os.truncate(path, num_bytes)
        self.redis.start()

    def fill_disk_of_redis(self) -> None:
        with self.redis.full_disk():
            time.sleep(TROUBLE_SECONDS)

    def flush_redis(self) -> None:
        """Everything in it is gone, and it does not even restart."""
        self.command_redis("FLUSHALL")

    def flush_redis_with_its_clock_behind(self) -> None:
        """As a server that comes back empty on another machine, whose clock is an hour behind."""
        ahead = round(time.time() * 1000) + HOUR_MILLISECONDS
        self.command_redis("XSETID", "tppo:{quickstart}:inbox", f"{ahead}-0")
        self.wait_for_step(self.num_steps_done + 2)
        self.command_redis("FLUSHALL")

    def fill_redis_while_the_learner_starts(self) -> None:
        """Its memory limit falls below what is used, and the learner is killed; it must not end over it again."""
        before = self.incarnation()
        self.command_redis("CONFIG", "SET", "maxmemory", "1mb")
        try:
            self.kill("learner")
            self.wait_for_status(lambda status: status["incarnation"] > before)
            time.sleep(TROUBLE_SECONDS)
            assert self.incarnation() == before + 1, self.logs()
        finally:
            self.command_redis("CONFIG", "SET", "maxmemory", "256mb")

    def command_redis(self, *command: str) -> object:
        """To the server itself, past the proxy."""
        return self._with_redis(lambda client: client.execute_command(*command))

    def poison(self, kind: str, source: random.Random) -> None:
        """Put records of this kind into the streams, and let three steps be taken."""
        keys = kept_records(self.folder)
        assert keys is not None
        self._with_redis(lambda client: poison.add(client, poison.KINDS[kind], source, keys))
        self.wait_for_step(self.num_steps_done + 3)

    def _with_redis(self, work: Callable[[RedisClient], Awaitable[T]]) -> T:
        async def execute() -> T:
            async with await connect(self.redis.url) as client:
                return await work(client)

        return asyncio.run(execute())

    def freeze_redis(self, seconds: float = FREEZE_SECONDS) -> None:
        with self.frozen(self.redis.process.pid):
            time.sleep(seconds)

    def kill_in_checkpoint(self) -> None:
        """The learner, while it writes one."""
        learner = self.process_id("learner")
        checkpoints = self.folder / "checkpoints"
        self._wait_closely(lambda: any(checkpoints.glob(".global_step_*.writing")))
        os.kill(learner, signal.SIGKILL)

    def kill_in_transfer(self) -> None:
        """A generator, at the moment at which new weights go out."""
        generator = self.process_id("generation-1")
        self._wait_for_new_weights()
        os.kill(generator, signal.SIGKILL)

    def kill_everything(self) -> None:
        """As a power cut does, but for Redis; and learn that the children are gone, whom the kernel kills."""
        names = ("learner", "reward-0", "dashboard", *(f"generation-{number}" for number in range(NUM_GENERATORS)))
        children = [process_id for name in names for process_id in self._process_ids(name)]
        process_id = self.process.pid
        if self._fork_server is not None:
            process_id = self._fork_server.real_process_id(process_id) or process_id
        os.kill(process_id, signal.SIGKILL)
        output_of(self.process)
        wait_until(lambda: not any(map(is_running, children)), "the end of all processes")

    def audit(self) -> "subprocess.CompletedProcess[str]":
        return self.verb("audit")

    def replay(self) -> "subprocess.CompletedProcess[str]":
        """Into a folder beside the others."""
        return self.verb("replay")

    def verb(self, name: str) -> "subprocess.CompletedProcess[str]":
        """Of this run's folder."""
        command = [*self.program, name, str(self.folder)]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=VERB_SECONDS)

    def _process_ids(self, name: str) -> list[int]:
        """Those that work; what only stands in for one of the fork server's is none."""
        found = super()._process_ids(name)
        if self._fork_server is None:
            return found
        return [real for one in found if (real := self._fork_server.real_process_id(one)) is not None]

    def _wait_for_new_weights(self) -> None:
        before = self.num_steps_done
        self._wait_closely(lambda: self.num_steps_done > before)

    def _wait_closely(self, condition: Callable[[], bool]) -> None:
        """Without the pause that would miss the moment; gives up quietly when it does not come."""
        deadline = time.monotonic() + 30
        while not condition() and time.monotonic() < deadline and self.process.poll() is None:
            time.sleep(0.0005)
