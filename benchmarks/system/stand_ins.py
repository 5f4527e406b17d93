"""The control plane alone, at the size of the paper: 8,192 rows of windows of 8k tokens on 64 stand-in generators.

    OMP_NUM_THREADS=1 python -m benchmarks.system.stand_ins

Real are Redis with its leases, the workers that hold them, records and their bytes, the inbox, border, ledger and
scheduler. Stand-ins are the engines, which wait as long as a window would take and return its tokens, and the training
step, which trains zeros. All generators are in one process. With `--factor 1` a token takes the 30 ms that it may take
a large model; a larger factor makes time pass faster, so that the same work falls into fewer seconds. Steps are in
lockstep, responses have one window; the inbox is trimmed after each step, as a checkpoint would.
"""

import argparse
import asyncio
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from benchmarks import results
from benchmarks.learner.control_plane import config_of, manager_of
from benchmarks.process_watch import tree
from benchmarks.results import Chapter, Section, table
from learner.exchange.inbox import InboxLoop
from learner.exchange.reconciliation import Reconciliation
from learner.exchange.request_sender import RequestSender
from learner.rollouts.manager import RolloutManager
from learner.rollouts.requests import UnscoredResponse
from services.local.redis_server import RedisServer, find_binary, free_port
from tppo.codec import decode_window_request, encode_inbox_record
from tppo.process.cancellation import TaskGroup, cancel_all
from tppo.process.leased_worker import LeasedWorker, PoisonRequestError, WorkerSettings
from tppo.process.presence import announce, this_process
from tppo.process.shell import connected
from tppo.rollout import FinishReason, Score, ScoreStatus, VersionSpan, Window, logprobs, tokens
from tppo.streams.connection import RedisClient
from tppo.streams.contract import BEGINNING
from tppo.streams.redis import RedisStreams

RUN = "stand-ins"
SECONDS_OF_TOKEN = 0.03
LEASE_SECONDS = 15.0
STOP_TOKEN = 1


class StandIn:
    """Serves requests by waiting."""

    def __init__(self, name: str, *, factor: float) -> None:
        self._name = name
        self._seconds_of_token = SECONDS_OF_TOKEN * random.Random(name).uniform(0.8, 1.2) / factor

    async def ready(self) -> None:
        """At once."""

    async def handle(self, payload: bytes) -> bytes:
        request = decode_window_request(payload)
        num, began = request.max_new_tokens, time.time()
        await asyncio.sleep(num * self._seconds_of_token)
        return encode_inbox_record(
            Window(
                request.rollout_id,
                request.window_index,
                tokens([2]) * (num - 1) + tokens([STOP_TOKEN]),
                logprobs([-1.0]) * num,
                (VersionSpan(request.min_policy_version, num),),
                FinishReason.STOP,
                generator=self._name,
                started_at=began,
                ended_at=time.time(),
            )
        )

    def refuse(self, payload: bytes, cause: str) -> bytes:
        raise PoisonRequestError(cause)

    def status(self) -> Mapping[str, object]:
        return {"num_slots": 0, "tokens_per_second": 1 / self._seconds_of_token}


async def serve(url: str, *, num_generators: int, num_slots: int, factor: float) -> None:
    """All generators, until the process is ended."""
    async with AsyncExitStack() as stack, TaskGroup() as group:
        for number in range(num_generators):
            name = f"generation-{number}"
            client = await stack.enter_async_context(connected(url))
            streams = RedisStreams(client, run=RUN, lease_seconds=LEASE_SECONDS)
            settings = WorkerSettings(name=name, lease_seconds=LEASE_SECONDS, capacity=num_slots)

            handler = StandIn(name, factor=factor)
            worker = LeasedWorker(settings, streams.window_requests, handler, partial(beat, client, name))
            group.create_task(worker.run())


async def beat(client: RedisClient, name: str, status: Mapping[str, object]) -> None:
    await announce(client, RUN, this_process(name, "generation", status=status))


@dataclass
class Learner:
    """Its control plane, in this process."""

    streams: RedisStreams
    manager: RolloutManager
    num_steps: int
    step_seconds: list[float] = field(default_factory=list)
    _num_scores: int = 0

    async def run(self) -> None:
        ledger = self.manager.ledger
        changed = asyncio.Event()
        sender = RequestSender(self.streams, ledger)

        def on_entries(_: int) -> None:
            self._score()
            ledger.occurrences.clear()  # the journal's
            sender.flush()
            changed.set()

        inbox = InboxLoop(
            self.streams.inbox,
            BEGINNING,
            self.manager.border,
            enter=self.manager.enter,
            reject=_refused,
            on_entries=on_entries,
        )
        async with TaskGroup() as group:
            reconciliation = Reconciliation(self.streams, ledger, sender, lambda: inbox.position, self.manager.border)
            beside = [group.create_task(loop.serve()) for loop in (inbox, sender, reconciliation)]
            self.manager.scheduler.open(0)
            sender.flush()
            for step in range(self.num_steps):
                began = time.monotonic()
                while not (batch := self.manager.scheduler.next_batch(step)):
                    changed.clear()
                    await changed.wait()
                ledger.take(batch)
                for row in batch:
                    ledger.mark_trained(row, logprobs([0.0]) * row.num_window_tokens)
                await self.streams.inbox.trim(inbox.position)
                self.manager.scheduler.close_step(batch, step + 1)
                del batch
                sender.flush()
                self.step_seconds.append(time.monotonic() - began)
            await cancel_all(beside)

    def _score(self) -> None:
        """What the reward service would answer; its own cost is measured elsewhere."""
        rewards = [request for request in self.manager.ledger.outbox if isinstance(request, UnscoredResponse)]
        for request in rewards:
            self._num_scores += 1
            score = Score(request.rollout_id, request.attempt, ScoreStatus.SCORED, 1.0)
            self.manager.enter((2**62, self._num_scores), score)  # behind every window


def _refused(*_: object) -> None:
    raise AssertionError("a record was rejected")


@contextmanager
def started(command: Sequence[str]) -> Iterator["subprocess.Popen[bytes]"]:
    """Until the end of the context."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.terminate()


@dataclass
class Use:
    """CPU seconds since the beginning and the largest memory, of each process."""

    pids: Mapping[str, int]
    before: dict[str, float] = field(default_factory=dict)
    cpu_seconds: dict[str, float] = field(default_factory=dict)
    memory_mb: dict[str, float] = field(default_factory=dict)

    def look(self) -> None:
        for name, pid in self.pids.items():
            process = next(tree(pid))
            self.before.setdefault(name, process.cpu_seconds)
            self.cpu_seconds[name] = process.cpu_seconds - self.before[name]
            self.memory_mb[name] = max(self.memory_mb.get(name, 0.0), process.memory_mb)

    async def watch(self) -> None:
        while True:
            self.look()
            await asyncio.sleep(1.0)


@asynccontextmanager
async def watched(use: Use) -> AsyncIterator[None]:
    watching = asyncio.create_task(use.watch())
    try:
        yield
    finally:
        await cancel_all([watching])
        use.look()


async def measured(arguments: argparse.Namespace, folder: Path) -> Section:
    server = RedisServer(binary=find_binary(), port=free_port(), folder=folder, memory_limit_mb=2048)
    slots = -(-arguments.rows // arguments.generators)
    options = [f"--{name}={getattr(arguments, name)}" for name in ("generators", "factor")]
    generators = [sys.executable, "-m", "benchmarks.system.stand_ins", "--serve", server.url, "--slots", str(slots)]
    config = config_of(
        num_rows=arguments.rows, lag=0, mode="lockstep", window_length=arguments.window, num_steps=arguments.steps
    )
    with started(server.command()) as redis:
        async with connected(server.url) as client:
            with started([*generators, *options]) as process:
                streams = RedisStreams(client, run=RUN, lease_seconds=LEASE_SECONDS)
                learner = Learner(streams, manager_of(config), arguments.steps)
                use = Use({"redis": redis.pid, "generators": process.pid, "learner": os.getpid()})
                async with watched(use):
                    await learner.run()
    return {
        **{name: getattr(arguments, name) for name in ("rows", "generators", "window", "factor", "steps")},
        "wall": sum(learner.step_seconds),
        "cpu": use.cpu_seconds,
        "memory": use.memory_mb,
    }


def tables(section: Section) -> dict[str, str]:
    wall = section["wall"]
    rows = [
        [name, f"{seconds / wall:.2f}", f"{1e6 * seconds / section['rows'] / section['steps']:.0f}", f"{memory:.0f}"]
        for name, seconds in section["cpu"].items()
        for memory in [section["memory"][name]]
    ]
    seconds, memory = sum(section["cpu"].values()), sum(section["memory"].values())
    of_window = 1e6 * seconds / section["rows"] / section["steps"]
    rows.append(["together", f"{seconds / wall:.2f}", f"{of_window:.0f}", f"{memory:.0f}"])
    about = (
        f"{section['rows']:,} rows of {section['window']:,} tokens a step on {section['generators']} stand-in "
        f"generators at factor {section['factor']:g}, {section['steps']} steps in {wall:.0f} s."
    )
    return {"stand-ins": f"{about}\n\n{table(['', 'cores', 'CPU microseconds a window', 'memory, MB'], rows)}"}


CHAPTER = Chapter(
    name="stand-ins", module="benchmarks.system.stand_ins", minutes=12, places=("stand-ins",), tables=tables
)


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=8192, help="of a step")
    parser.add_argument("--window", type=int, default=8192, help="tokens of each")
    parser.add_argument("--generators", type=int, default=64)
    parser.add_argument("--factor", type=float, default=1.0, help="how much faster than 30 ms a token")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="few short rows: to see that it works")
    parser.add_argument("--serve", metavar="URL", help=argparse.SUPPRESS)
    parser.add_argument("--slots", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.serve:
        run = partial(serve, arguments.serve, num_generators=arguments.generators)
        asyncio.run(run(num_slots=arguments.slots, factor=arguments.factor))
        return
    if arguments.quick:
        arguments.rows, arguments.window, arguments.generators, arguments.factor = 64, 256, 4, 4.0
    seconds = arguments.steps * 1.3 * arguments.window * SECONDS_OF_TOKEN / arguments.factor
    print(f"About {seconds / 60:.0f} minutes.", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        section = asyncio.run(measured(arguments, Path(folder)))
    print(tables(section)["stand-ins"])
    if not arguments.quick:
        results.keep(CHAPTER.name, section, seconds=section["wall"])


if __name__ == "__main__":
    main(sys.argv[1:])
