"""A `tppo run` whose Redis belongs to the test: everything in it can be killed, frozen and cut off."""

import asyncio
import contextlib
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.local.redis_server import free_port
from tests.support.processes import tppo
from tests.support.proxy import Mood, Proxy
from tests.support.quickstart_run import NEVER_ENDS, Run
from tests.support.redis_server import Redis
from tppo.presence import Presence, present
from tppo.streams.connection import SOCKET_TIMEOUT_SECONDS, connect

NUM_GENERATORS = 2
PROXY_HOST = "127.0.0.2"  # the loopback, too: there the generators' ports lead through proxies
FREEZE_SECONDS = 3.0  # longer than a lease of SMALL
LONG_FREEZE_SECONDS = SOCKET_TIMEOUT_SECONDS + 2.0
MINUTE_SECONDS = 60.0
TROUBLE_SECONDS = 2.0
HOUR_MILLISECONDS = 3_600_000
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
}


def free_ports(count: int) -> int:
    """The first of so many consecutive ones."""
    while True:
        first = free_port()
        try:
            for port in range(first, first + count):
                socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        return first


class ChaoticRun(Run):
    """The quick start with two generators; proxies stand before Redis and before the generators' gRPC servers."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self.redis = Redis(folder / "redis")
        self.proxy = Proxy(self.redis.port)
        self.redis_url = f"redis://127.0.0.1:{self.proxy.port}/0"
        first_port = free_ports(NUM_GENERATORS)
        self.weight_proxies = [
            Proxy(port, host=PROXY_HOST, port=port) for port in range(first_port, first_port + NUM_GENERATORS)
        ]
        own = {"redis.url": self.redis_url, "generation.port": str(first_port)}
        super().__init__(folder, **{**SETTINGS, **own, **settings})

    def close(self) -> None:
        """Leave nothing running, whatever happened."""
        try:
            super().close()
        finally:
            for proxy in (self.proxy, *self.weight_proxies):
                proxy.close()
            self.redis.kill()

    def finish(self, *, num_more_steps: int) -> None:
        """Interrupt the run, go on, and let it come to its last step, which is the next but so many."""
        self.interrupt()
        self.resume(**{"run.total_training_steps": str(self.num_steps_done + num_more_steps)})
        self.end()

    def wait_for_status(self, is_awaited: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
        """What the learner says of itself, once it says that."""

        def look() -> list[dict[str, Any]]:
            statuses = [one.status for one in asyncio.run(self._present()) if one.kind == "learner"]
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

        async def execute() -> object:
            async with await connect(self.redis.url) as client:
                return await client.execute_command(*command)

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

    def audit(self) -> "subprocess.CompletedProcess[str]":
        return tppo("audit", self.folder)

    def _wait_for_new_weights(self) -> None:
        before = self.num_steps_done
        self._wait_closely(lambda: self.num_steps_done > before)

    def _wait_closely(self, condition: Callable[[], bool]) -> None:
        """Without the pause that would miss the moment; gives up quietly when it does not come."""
        deadline = time.monotonic() + 30
        while not condition() and time.monotonic() < deadline and self.process.poll() is None:
            time.sleep(0.0005)


Fault = Callable[[ChaoticRun], object]
FAULTS: dict[str, Fault] = {
    "SIGKILL generation": lambda run: run.kill("generation-0"),
    "SIGKILL generation in a weight transfer": lambda run: run.kill_in_transfer(),
    "SIGKILL reward": lambda run: run.kill("reward-0"),
    "SIGKILL learner": lambda run: run.kill("learner"),
    "SIGKILL learner in a checkpoint": lambda run: run.kill_in_checkpoint(),
    "SIGKILL Redis": lambda run: run.kill_redis(),
    "Redis loses its last second": lambda run: run.lose_last_second(),
    "Redis' disk is full": lambda run: run.fill_disk_of_redis(),
    "Redis is flushed": lambda run: run.flush_redis(),
    "Redis comes back empty with its clock behind": lambda run: run.flush_redis_with_its_clock_behind(),
    "Redis is full while the learner starts": lambda run: run.fill_redis_while_the_learner_starts(),
    "SIGSTOP generation": lambda run: run.freeze("generation-0"),
    "SIGSTOP reward": lambda run: run.freeze("reward-0"),
    "SIGSTOP learner": lambda run: run.freeze("learner"),
    "SIGSTOP Redis": lambda run: run.freeze_redis(),
    "SIGSTOP Redis beyond every time-out": lambda run: run.freeze_redis(LONG_FREEZE_SECONDS),
    "SIGSTOP Redis for a minute": lambda run: run.freeze_redis(MINUTE_SECONDS),
    "connections cut": lambda run: run.trouble(Mood.CUT),
    "connections delayed": lambda run: run.trouble(Mood.DELAY),
    "connections silent": lambda run: run.trouble(Mood.BLACK_HOLE),
    "replies dropped": lambda run: run.trouble(Mood.DROP_REPLIES),
    "weight transfer cut": lambda run: run.trouble_weights(Mood.CUT),
    "weight transfer cut in the middle": lambda run: run.trouble_weights(Mood.CUT_IN_THE_MIDDLE),
    "weight transfer silent": lambda run: run.trouble_weights(Mood.BLACK_HOLE),
    "weight transfer answered by nobody": lambda run: run.trouble_weights(Mood.DROP_REPLIES),
}
MOST_PER_RUN = 3  # of one fault: the supervisor gives up a process that fails six times in a row


@dataclass(frozen=True)
class Injection:
    """A fault, and how long it took until the next step was done."""

    name: str
    recovered_seconds: float


def drawn_faults(source: random.Random, count: int, names: Iterable[str] = FAULTS) -> list[str]:
    """An order of at most so many of these faults, in which none comes too often."""
    choice = sorted(names) * MOST_PER_RUN
    return source.sample(choice, min(count, len(choice)))


def inject(run: ChaoticRun, name: str, source: random.Random) -> Injection:
    """At a moment of the next step, and wait until the run has recovered."""
    run.wait_for_step(run.num_steps_done + 1)
    time.sleep(source.uniform(0, 0.5))
    began = time.monotonic()
    FAULTS[name](run)
    run.wait_for_step(run.num_steps_done + 1)
    return Injection(name, time.monotonic() - began)
