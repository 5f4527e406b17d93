"""What Redis knows about a run at one moment, and a memory of it for the time in which Redis does not answer.

`Observer.serve`: once a second, a look at Redis -> the newest observation, which every answer uses. So an answer never
waits for Redis, and a hundred readers ask it no more than one does.
"""

import asyncio
import math
import time
from dataclasses import dataclass, field, replace
from typing import Protocol

from tppo.codec import encode_inbox_record
from tppo.process.presence import Presence, present
from tppo.rollout import Command
from tppo.run_folder.json_lines import plain
from tppo.security.envelope import Sealer
from tppo.streams import QueueDepth, StreamsError
from tppo.streams.connection import RedisClient, connect
from tppo.streams.contract import DeadLetter, DeadLetterCount
from tppo.streams.redis import RedisStreams

LOOK_SECONDS = 1.0
NUM_DEAD_LETTERS = 5  # shown, of those kept
DEADLINE_SECONDS = 2.0
NO_LETTERS = DeadLetterCount(num_kept=0, num_dropped=0)
NOTHING = QueueDepth(num_waiting=0, num_leased=0)


@dataclass(frozen=True, kw_only=True)
class Observation:
    """A run as Redis knows it, before it is explained."""

    now: float
    """Seconds since the epoch by the clock that the heartbeats bear."""
    presences: list[Presence] = field(default_factory=list)
    """Every process that announced itself and did not withdraw, those without a recent heartbeat too."""
    window_requests: QueueDepth = NOTHING
    reward_requests: QueueDepth = NOTHING
    num_inbox_entries: int = 0
    dead_letters: DeadLetterCount = NO_LETTERS
    newest_dead_letters: list[DeadLetter] = field(default_factory=list)
    error: str = ""
    """Why Redis does not answer; then the other fields are of its last answer."""


class Source(Protocol):
    """Where observations come from, and where commands go."""

    async def observe(self) -> Observation:
        """Look now. Raises StreamsError or ValueError when there is no usable server."""

    async def append(self, command: Command) -> None:
        """Put a command into the run's inbox; the same errors."""


class RedisSource:
    """A run in a Redis server, which need not answer yet."""

    def __init__(self, url: str, *, run: str, lease_seconds: float, sealer: Sealer) -> None:
        """`sealer`: of the operator's commands."""
        self._url = url
        self._seal = sealer.seal
        self._run = run
        self._lease_seconds = lease_seconds
        self._connected: tuple[RedisClient, RedisStreams] | None = None

    async def observe(self) -> Observation:
        """A few round trips."""
        client, streams = await self.connected()
        seconds, microseconds = await client.time()
        return Observation(
            now=seconds + microseconds / 1e6,
            presences=[
                replace(presence, status=plain(presence.status))
                for presence in await present(client, self._run, gone_after_seconds=math.inf)
            ],
            window_requests=await streams.window_requests.depth(),
            reward_requests=await streams.reward_requests.depth(),
            num_inbox_entries=await streams.inbox.length(),
            dead_letters=await streams.dead_letters.count(),
            newest_dead_letters=await streams.dead_letters.newest(NUM_DEAD_LETTERS),
        )

    async def append(self, command: Command) -> None:
        """One round trip."""
        _, streams = await self.connected()
        await streams.inbox.append([encode_inbox_record(command)])

    async def connected(self) -> tuple[RedisClient, RedisStreams]:
        """The client and the run's streams; it connects itself again later on."""
        if self._connected is None:
            client = await connect(self._url)
            streams = RedisStreams(client, run=self._run, lease_seconds=self._lease_seconds, seal=self._seal)
            self._connected = client, streams
        return self._connected

    async def aclose(self) -> None:
        """Let go of the server."""
        if self._connected is not None:
            await self._connected[0].aclose()


class Observer:
    """The newest observation, one second old at most while Redis answers."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._newest: Observation | None = None
        self._looked_at = 0.0
        self._looking = asyncio.Lock()

    async def serve(self) -> None:
        """Look once a second, until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_SECONDS)

    async def current(self) -> Observation:
        """The newest one, with the time that has passed since added to its clock."""
        if self._newest is None:
            async with self._looking:
                if self._newest is None:
                    await self.look()
        assert self._newest is not None
        return replace(self._newest, now=self._newest.now + time.monotonic() - self._looked_at)

    async def look(self) -> None:
        """Ask Redis; when it does not answer, its last answer stays, marked with the error."""
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                newest = await self._source.observe()
        except (StreamsError, TimeoutError, ValueError) as error:
            newest = self._without_answer(str(error) or f"no answer within {DEADLINE_SECONDS:g} s")
        self._newest, self._looked_at = newest, time.monotonic()

    def _without_answer(self, error: str) -> Observation:
        if self._newest is None:
            return Observation(now=time.time(), error=error)
        passed = time.monotonic() - self._looked_at
        return replace(self._newest, now=self._newest.now + passed, error=error)
