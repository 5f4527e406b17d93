"""Who is alive and what it does: each process announces itself in the Redis hash of its kind, once per heartbeat.

A hash for each kind, so that a generator's credentials cannot announce a learner: docs/security.md.

All times are the Redis server's, so that hosts whose clocks differ agree on whose heartbeat is missing.

Loop `beat`: consumes the status / waits a heartbeat / unblocked by the clock / produces an announcement.
"""

import asyncio
import json
import logging
import os
import socket
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from tppo.run_folder.json_lines import finite_json
from tppo.streams import StreamsError
from tppo.streams.connection import RedisClient
from tppo.streams.fence import GUARD, UNFENCED, WITH_FULL_MEMORY, fence_key, fenced

log = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 1.0
GONE_AFTER_SECONDS = 3 * HEARTBEAT_SECONDS
LOADED = {"generation": "the model", "learner": "data, policy and value model", "reward": "the reward functions"}
"""What a process of each kind loads before it can work."""
KINDS = tuple(sorted((*LOADED, "dashboard")))
LOADING_KEY = "loading"
"""Of the status of a process that cannot work yet: what it loads."""


@dataclass(frozen=True, slots=True)
class Presence:
    """One process of a run, as of its last heartbeat."""

    name: str  # unique in the run
    kind: str  # generation, reward, learner, dashboard
    address: str  # host:port of its gRPC server, or empty
    started_at: float  # seconds since the epoch
    pid: int
    host: str
    seen_at: float = 0.0  # set by `announce`
    status: dict[str, Any] = field(default_factory=dict)  # the kind's own numbers, JSON values

    @property
    def is_loading(self) -> bool:
        """Whether it cannot work yet."""
        return bool(self.status.get(LOADING_KEY))

    @classmethod
    def from_json(cls, text: bytes | str) -> "Presence":
        """The inverse of what `announce` writes; raises ValueError."""
        try:
            return cls(**finite_json(text if isinstance(text, bytes) else text.encode()))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{text[:200]!r} is no presence: {error}") from error


def this_process(name: str, kind: str, *, address: str = "", status: Mapping[str, Any] | None = None) -> Presence:
    """The presence of the calling process, which has just started."""
    return Presence(
        name,
        kind=kind,
        address=address,
        started_at=time.time(),
        pid=os.getpid(),
        host=socket.gethostname(),
        status=dict(status or {}),
    )


async def beat(announce_once: Callable[[], Awaitable[object]]) -> None:
    """Announce once per heartbeat until cancelled; one that fails is missing, and the next is tried all the same."""
    while True:
        try:
            await announce_once()
        except StreamsError as error:
            log.warning("cannot announce: %s; retry in %g s", error, HEARTBEAT_SECONDS)
        await asyncio.sleep(HEARTBEAT_SECONDS)


# KEYS[1]: the fence, KEYS[2]: the hash. ARGV: the writer's incarnation, name, presence.
ANNOUNCE = WITH_FULL_MEMORY + GUARD + "redis.call('HSET', KEYS[2], ARGV[2], ARGV[3])"


async def announce(client: RedisClient, run: str, presence: Presence, *, incarnation: int = UNFENCED) -> None:
    """One heartbeat. A learner names its incarnation: `FencedError` once there is a later one."""
    seen = replace(presence, seen_at=_seconds(await client.time()))
    arguments: list[str | bytes | int] = [incarnation, presence.name, json.dumps(asdict(seen))]
    await fenced(client.register_script(ANNOUNCE)([fence_key(run), presence_key(run, presence.kind)], arguments))


async def withdraw(client: RedisClient, run: str, presence: Presence) -> None:
    """An orderly end: gone at once instead of after three heartbeats."""
    await client.hdel(presence_key(run, presence.kind), presence.name)


async def present(
    client: RedisClient, run: str, kinds: Sequence[str] = KINDS, *, gone_after_seconds: float = GONE_AFTER_SECONDS
) -> list[Presence]:
    """Those whose last heartbeat is not older than that, by kind and name.

    Nor younger than now by that much: a promoted replica's clock may be behind the one that dated it.
    """
    looks = [("HVALS", presence_key(run, kind)) for kind in kinds]
    clock, *announced = await client.in_one_round_trip(("TIME",), *looks)
    now = _seconds(clock)
    found = [one for kind, texts in zip(kinds, announced, strict=True) for one in _of_kind(kind, texts)]
    return [one for one in found if abs(now - one.seen_at) <= gone_after_seconds]


def _of_kind(kind: str, texts: Iterable[bytes]) -> list[Presence]:
    found = map(Presence.from_json, texts)
    return sorted((one for one in found if one.kind == kind), key=lambda one: one.name)


def _seconds(clock: tuple[int, int]) -> float:
    """Of Redis' reply to TIME."""
    seconds, microseconds = clock
    return seconds + microseconds / 1e6


def presence_key(run: str, kind: str) -> str:
    """Where the processes of a kind announce themselves."""
    return f"tppo:{{{run}}}:presence:{kind}"
