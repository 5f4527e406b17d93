"""What processes and services write into a run's streams, once it is there."""

import time
from collections.abc import Callable
from typing import TypeVar

from tests.support.waiting import until_answered
from tppo.process.presence import Presence, present
from tppo.rollout import InboxRecord
from tppo.security.envelope import MAC_BYTES, PLAIN, PREFIX_BYTES, is_sealed
from tppo.streams import MemoryStreams, Streams
from tppo.streams.connection import RedisClient
from tppo.streams.contract import BEGINNING, InboxEntry

Record = TypeVar("Record", bound=InboxRecord)


def memory_streams(*, lease_seconds: float = 60.0, clock: Callable[[], float] = time.monotonic) -> MemoryStreams:
    """Streams whose workers stop at once: none waits for long at an empty queue."""
    return MemoryStreams(lease_seconds=lease_seconds, clock=clock, max_wait_seconds=0.02)


async def inbox_entries(streams: Streams, count: int) -> list[InboxEntry]:
    """The first entries of the inbox, once there are so many."""

    async def entries() -> list[InboxEntry]:
        return await streams.inbox.read(BEGINNING, max_count=count, wait_seconds=0)

    return await until_answered(entries, f"{count} entries in the inbox", is_met=lambda found: len(found) == count)


async def inbox_records(streams: Streams, kind: type[Record], count: int) -> list[Record]:
    """The first records of the inbox, which are of this kind alone."""
    records = [whoevers_record(entry.payload) for entry in await inbox_entries(streams, count)]
    assert all(isinstance(record, kind) for record in records), records
    return [record for record in records if isinstance(record, kind)]


def whoevers_record(payload: bytes) -> InboxRecord:
    """What is in the envelope, if there is one, whoever has sealed it."""
    return PLAIN.record(payload[PREFIX_BYTES + MAC_BYTES :] if is_sealed(payload) else payload)


async def announced(client: RedisClient, run: str, kind: str) -> Presence:
    """The process of this kind, once it has loaded."""

    async def found() -> list[Presence]:
        return [one for one in await present(client, run) if one.kind == kind and not one.is_loading]

    return (await until_answered(found, f"a heartbeat of a process of kind {kind} that has loaded"))[0]
