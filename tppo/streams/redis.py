"""The streams on Redis 7 or Valkey: consumer groups are the leases, Lua scripts steps that must not be cut in two."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from tppo.streams import scripts
from tppo.streams.connection import RedisClient
from tppo.streams.contract import (
    BEGINNING,
    MAX_DEAD_LETTERS,
    MAX_WAIT_SECONDS,
    DeadLetter,
    DeadLetters,
    Inbox,
    InboxEntry,
    Lease,
    Outstanding,
    QueueDepth,
    StreamsError,
)
from tppo.streams.dead_letters import DeadLetterKeys, RedisDeadLetters, bounded
from tppo.streams.fence import UNFENCED, fence_key, fenced
from tppo.streams.positions import HighestPosition, position_key

GROUP = "workers"
FIELD = b"payload"
GROUP_IS_GONE = ("NOGROUP", "UNBLOCKED")  # before a blocked read began, or while it waited
FULL_SHARE = 0.9  # of the server's memory limit, from which on it counts as full

Seal = Callable[[bytes], bytes]
Entries = list[tuple[bytes, dict[bytes, bytes]]]


class RedisStreams:
    """The streams of one run. The braces in the keys keep them on one node of a Redis cluster.

    A learner names its incarnation: what it puts and trims is refused with `FencedError` once there is a later one.
    """

    def __init__(
        self,
        client: RedisClient,
        *,
        run: str,
        lease_seconds: float,
        incarnation: int = UNFENCED,
        seal: Seal = bytes,
        look_seconds: float | None = None,
    ) -> None:
        """`seal` puts what this process writes into the inbox into its envelope (`tppo.security.envelope`).

        `look_seconds`: from one look for expired leases to the next, a third of a lease if unset. It goes through all
        leases, while released ones are found at once.
        """
        self._client = client
        self._discard = client.register_script(scripts.DISCARD)
        prefix = f"tppo:{{{run}}}"
        inbox = f"{prefix}:inbox"
        fence = self._fence = _Fence(fence_key(run), incarnation)
        self.position = HighestPosition()
        log = _Log(inbox, position_key(run), self.position, seal)
        self.inbox: Inbox = RedisInbox(client, log, fence)
        letters = DeadLetterKeys.under(prefix)
        self.dead_letters: DeadLetters = RedisDeadLetters(client, letters, fence.key, incarnation)
        around = _Around(fence, log, letters)
        terms = _Terms(round(lease_seconds * 1000), lease_seconds / 3 if look_seconds is None else look_seconds)
        self.window_requests = RedisRequestQueue(client, f"{prefix}:window_requests", terms, around)
        self.reward_requests = RedisRequestQueue(client, f"{prefix}:reward_requests", terms, around)
        self._keys = [fence.key, inbox, f"{prefix}:window_requests", f"{prefix}:reward_requests"]

    async def is_full(self) -> bool:
        """By the server's own bound, if it has one."""
        memory = await self._client.info("memory")
        return bool(memory["maxmemory"]) and memory["used_memory"] >= FULL_SHARE * memory["maxmemory"]

    async def discard(self) -> int:
        """One script."""
        return cast(int, await fenced(self._discard(self._keys, [self._fence.incarnation])))


@dataclass(frozen=True, slots=True)
class _Fence:
    """Where the fence stands, and who writes."""

    key: str
    incarnation: int


@dataclass(frozen=True, slots=True)
class _Log:
    """Where the inbox stands, and its highest position, and up to where this process knows it."""

    key: str
    position_key: str
    known: HighestPosition
    seal: Seal  # what is written there


@dataclass(frozen=True, slots=True)
class _Around:
    """What stands beside a queue: the fence, where its results go, and where what is rejected goes."""

    fence: _Fence
    log: _Log
    letters: DeadLetterKeys


@dataclass(frozen=True, slots=True)
class _Terms:
    """Of a queue's leases."""

    lease_milliseconds: int
    look_seconds: float  # from one look for expired ones to the next


class RedisRequestQueue:
    """A stream and its consumer group; one object per process, as it remembers who has read its own entries, and when
    it has looked for expired leases.
    """

    def __init__(self, client: RedisClient, key: str, terms: _Terms, around: _Around) -> None:
        self._client = client
        self._key = key
        self._fence, self._log, self._letters = around.fence, around.log, around.letters
        self._lease_milliseconds, self._look_seconds = terms.lease_milliseconds, terms.look_seconds
        self._looked_at = -math.inf
        self._workers_known: set[str] = set()
        self._put = client.register_script(scripts.PUT)
        self._lease = client.register_script(scripts.LEASE)
        self._hand_over = client.register_script(scripts.HAND_OVER)
        self._complete = client.register_script(scripts.COMPLETE)
        self._reject = client.register_script(scripts.REJECT)
        self._depth = client.register_script(scripts.DEPTH)
        self._remaining = client.register_script(scripts.REMAINING)

    async def put(self, payloads: Sequence[bytes]) -> list[str]:
        """One script, so that a crash cannot leave half of them."""
        if not payloads:
            return []
        keys = [self._fence.key, self._key, self._log.position_key]
        ids = await fenced(self._put(keys, [self._fence.incarnation, self._log.known.text, *payloads]))
        return _texts(ids)

    async def lease(self, worker: str, *, max_count: int, wait_seconds: float) -> list[Lease]:
        """One round trip when there is something to do, two when it has to wait."""
        if max_count <= 0:
            return []
        own = "" if worker in self._workers_known else "own"
        now = time.monotonic()
        expired = "" if now < self._looked_at + self._look_seconds else "expired"
        terms = self._lease_milliseconds, max_count, own, expired, scripts.RELEASED
        taken = await self._run(self._lease, worker, *terms)
        self._workers_known.add(worker)
        if expired and len(taken) < max_count:  # all of them were found
            self._looked_at = now
        if taken or wait_seconds <= 0:
            return [Lease(entry_id.decode(), payload, num_deliveries) for entry_id, payload, num_deliveries in taken]
        return await self._wait_for_new(worker, max_count, wait_seconds)

    async def renew(self, worker: str, leases: Sequence[Lease]) -> None:
        """XCLAIM with JUSTID: the time starts again, the number of deliveries stays."""
        if leases:
            await self._run(self._hand_over, worker, worker, 0, 0, *_ids(leases))

    async def complete(self, worker: str, results: Sequence[tuple[Lease, bytes]]) -> list[bool]:
        """One script for all results: one round trip, and each is written and acknowledged or neither."""
        if not results:
            return []
        arguments = [argument for lease, result in results for argument in (lease.entry_id, self._log.seal(result))]
        return [bool(is_written) for is_written in await self._run(self._complete, worker, *arguments)]

    async def reject(self, worker: str, lease: Lease, cause: str) -> bool:
        """One script: XADD to the dead letters, XACK and XDEL, or none of them."""
        letter = bounded(DeadLetter(self._key.rpartition(":")[2], lease.entry_id, cause, lease.payload))
        keys = [self._key, self._letters.letters, self._letters.counts]
        fields: list[str | bytes] = [letter.source, letter.cause, letter.payload]
        return bool(await self._reject(keys, [GROUP, worker, letter.place, MAX_DEAD_LETTERS, *fields]))

    async def release(self, worker: str, leases: Sequence[Lease]) -> None:
        """Who waits in a blocked read sees them at its next call."""
        if leases:
            await self._run(self._hand_over, worker, scripts.RELEASED, self._lease_milliseconds, 1, *_ids(leases))

    async def remaining(self, entry_ids: Sequence[str]) -> set[str]:
        """One script: XRANGE would send the payloads as well."""
        return set(_texts(await self._run(self._remaining, *entry_ids))) if entry_ids else set()

    async def outstanding(self, after: str = BEGINNING, *, max_count: int) -> list[Outstanding]:
        """Every request that was completed is deleted, so what the stream holds is the answer."""
        entries: Any = await self._client.xrange(self._key, min=f"({after}", count=max_count)
        return [Outstanding(entry_id.decode(), _payload(fields)) for entry_id, fields in entries]

    async def depth(self) -> QueueDepth:
        """Of one moment."""
        num_waiting, num_leased = await self._run(self._depth, scripts.RELEASED)
        return QueueDepth(num_waiting, num_leased)

    async def _wait_for_new(self, worker: str, max_count: int, wait_seconds: float) -> list[Lease]:
        try:
            reply = await self._client.xreadgroup(
                GROUP, worker, {self._key: ">"}, count=max_count, block=_block_milliseconds(wait_seconds)
            )
        except StreamsError as error:
            if not str(error).startswith(GROUP_IS_GONE):
                raise
            return []  # the next lease makes it again
        return [Lease(entry_id.decode(), _payload(fields), 1) for entry_id, fields in _entries(reply)]

    async def _run(self, script: Any, *arguments: str | bytes | int) -> Any:
        return await script([self._key, self._log.key, self._log.position_key], [GROUP, *arguments])


class RedisInbox:
    """A stream without a group: its reader keeps the position with its checkpoint."""

    def __init__(self, client: RedisClient, log: _Log, fence: _Fence) -> None:
        self._client = client
        self._log = log
        self._key = log.key
        self._fence = fence
        self._append = client.register_script(scripts.APPEND_ALL)
        self._trim = client.register_script(scripts.TRIM)

    async def append(self, payloads: Sequence[bytes]) -> None:
        """One script."""
        if payloads:
            sealed = map(self._log.seal, payloads)
            await self._append([self._key, self._log.position_key], [self._log.known.text, *sealed])

    async def read(self, after: str, *, max_count: int, wait_seconds: float) -> list[InboxEntry]:
        """XREAD, blocking when there is time to wait."""
        if max_count <= 0:
            return []
        block = _block_milliseconds(wait_seconds)
        reply = await self._client.xread({self._key: after}, count=max_count, block=block)
        entries = [InboxEntry(position.decode(), _payload(fields)) for position, fields in _entries(reply)]
        self._log.known.note(entries[-1].position if entries else after)
        return entries

    async def trim(self, through: str) -> None:
        """XTRIM keeps what is at or behind MINID, hence the next position."""
        milliseconds, _, sequence = through.partition("-")
        first_kept = f"{milliseconds}-{int(sequence) + 1}"
        await fenced(self._trim([self._fence.key, self._key], [self._fence.incarnation, first_kept]))

    async def last(self) -> str:
        """XREVRANGE; the id that the stream has generated last may be of an entry that is gone."""
        entries: Any = await self._client.xrevrange(self._key, count=1)
        return entries[0][0].decode() if entries else BEGINNING

    async def length(self) -> int:
        """XLEN."""
        return int(await self._client.xlen(self._key))


def _entries(reply: Any) -> Entries:
    """The entries of the one stream that was read; the reply is empty when the wait was in vain."""
    return reply[0][1] if reply else []


def _payload(fields: dict[bytes, bytes]) -> bytes:
    """Empty in an entry that none of our processes wrote; its reader rejects it."""
    return fields.get(FIELD, b"")


def _block_milliseconds(wait_seconds: float) -> int | None:
    """BLOCK's argument: None does not wait, and 0, which would wait without limit, is never given."""
    if wait_seconds <= 0:
        return None
    return max(1, round(min(wait_seconds, MAX_WAIT_SECONDS) * 1000))


def _texts(reply: Any) -> list[str]:
    return [one.decode() for one in reply]


def _ids(leases: Sequence[Lease]) -> list[str]:
    return [lease.entry_id for lease in leases]
