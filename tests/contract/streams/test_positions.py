"""Positions of the inbox never go back: not after a flush, a failover, or a clock that is behind."""

import json
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from tests.support.redis_server import StartRedis
from tppo.process.presence import announce, presence_key, present, this_process
from tppo.streams import InboxEntry, Streams
from tppo.streams.connection import RedisClient, connect
from tppo.streams.contract import BEGINNING, position_of
from tppo.streams.fence import Fence, Holder
from tppo.streams.positions import HighestPosition
from tppo.streams.redis import RedisStreams

HOUR_MILLISECONDS = 3_600_000


def an_hour_ahead() -> int:
    return round(time.time() * 1000) + HOUR_MILLISECONDS


def streams_of(client: RedisClient, run: str) -> RedisStreams:
    return RedisStreams(client, run=run, lease_seconds=60)


async def set_last_id(client: RedisClient, run: str, milliseconds: int) -> None:
    """As if the server's clock had been there when the newest entry came."""
    await streams_of(client, run).inbox.append([b"oldest"])
    await client.execute_command("XSETID", f"tppo:{{{run}}}:inbox", f"{milliseconds}-0")


async def forget(client: RedisClient, run: str) -> None:
    """What FLUSHALL leaves of a run."""
    async for key in client.scan_iter(f"tppo:{{{run}}}:*"):
        await client.delete(key)


async def all_behind(streams: Streams, position: str) -> list[InboxEntry]:
    return await streams.inbox.read(position, max_count=99, wait_seconds=0)


async def answered(queue_owner: Streams, answer: bytes) -> None:
    """One window request is served."""
    (lease,) = await queue_owner.window_requests.lease("w", max_count=1, wait_seconds=0)
    assert await queue_owner.window_requests.complete("w", [(lease, answer)]) == [True]


async def test_an_answer_on_an_empty_server_with_its_clock_behind_lies_behind_the_learners_position(
    redis_client: RedisClient, run_name: str
) -> None:
    await set_last_id(redis_client, run_name, ahead := an_hour_ahead())
    learner, generator = streams_of(redis_client, run_name), streams_of(redis_client, run_name)
    await learner.inbox.append([b"before"])
    position = (await all_behind(learner, BEGINNING))[-1].position
    assert position == f"{ahead}-1"

    await forget(redis_client, run_name)
    await learner.window_requests.put([b"resent", b"resent too"])
    await answered(generator, b"first")
    await answered(generator, b"second")

    behind = await all_behind(learner, position)
    assert [(entry.position, entry.payload) for entry in behind] == [
        (f"{ahead}-2", b"first"),
        (f"{ahead}-3", b"second"),
    ]


async def test_what_a_learner_adds_to_an_empty_server_lies_behind_the_position_that_it_knows(
    redis_client: RedisClient, run_name: str
) -> None:
    learner = streams_of(redis_client, run_name)
    learner.position.note(position := f"{an_hour_ahead()}-7")

    await learner.inbox.append([b"changed settings", b"more"])

    behind = await all_behind(learner, position)
    assert [(entry.position, entry.payload) for entry in behind] == [
        (position.replace("-7", "-8"), b"changed settings"),
        (position.replace("-7", "-9"), b"more"),
    ]


async def test_an_empty_server_learns_the_position_with_the_lease(redis_client: RedisClient, run_name: str) -> None:
    position = f"{an_hour_ahead()}-7"
    fence = Fence(redis_client, run_name, host="here", lease_seconds=60)
    await fence.renew(3, position)
    await fence.renew(3, "5-0")  # a position never goes back

    await streams_of(redis_client, run_name).inbox.append([b"command"])

    (entry,) = await all_behind(streams_of(redis_client, run_name), position)
    assert entry.position == position.replace("-7", "-8")


async def test_a_stream_whose_last_id_was_set_ahead_goes_on_from_there(
    redis_client: RedisClient, run_name: str
) -> None:
    await set_last_id(redis_client, run_name, ahead := an_hour_ahead())
    streams = streams_of(redis_client, run_name)
    await streams.window_requests.put([b"request"])

    await answered(streams, b"answer")
    await streams.inbox.append([b"command", b"another"])

    assert [entry.position for entry in await all_behind(streams, f"{ahead}-0")] == [
        f"{ahead}-1",
        f"{ahead}-2",
        f"{ahead}-3",
    ]


async def test_with_a_right_clock_positions_are_the_servers_time(redis_client: RedisClient, run_name: str) -> None:
    streams = streams_of(redis_client, run_name)
    seconds, microseconds = await redis_client.time()

    await streams.inbox.append([b"a"])

    (entry,) = await all_behind(streams, BEGINNING)
    assert 0 <= position_of(entry.position)[0] - (seconds * 1000 + microseconds // 1000) < 60_000


async def test_what_was_read_from_the_archive_counts(start_redis: StartRedis, tmp_path: Path) -> None:
    with start_redis(tmp_path) as server:
        client = await connect(server.url)
        streams = streams_of(client, "r")
        streams.position.note(position := f"{an_hour_ahead()}-4")
        await streams.window_requests.put([b"request"])

        await answered(streams, b"answer")

        assert [entry.payload for entry in await all_behind(streams, position)] == [b"answer"]
        await client.aclose()


async def test_a_lease_that_a_clock_behind_has_prolonged_is_cut(redis_client: RedisClient, run_name: str) -> None:
    fence = Fence(redis_client, run_name, host="here", lease_seconds=15)
    await fence.acquire(1)
    await redis_client.pexpire(f"tppo:{{{run_name}}}:learner", HOUR_MILLISECONDS)

    holder = await fence.acquire(1)

    assert isinstance(holder, Holder)
    assert holder.remaining_milliseconds <= 15_000


async def test_a_heartbeat_of_another_clocks_future_is_not_recent(redis_client: RedisClient, run_name: str) -> None:
    await announce(redis_client, run_name, this_process("generation-0", "generation"))
    assert [one.name for one in await present(redis_client, run_name)] == ["generation-0"]

    key = presence_key(run_name, "generation")
    (presence,) = await present(redis_client, run_name)
    later = replace(presence, seen_at=presence.seen_at + 3600)
    await redis_client.hset(key, "generation-0", json.dumps(asdict(later)))

    assert await present(redis_client, run_name) == []


@pytest.mark.parametrize(
    ("noted", "highest"), [(["9-0", "10-0", "9-9"], "10-0"), (["7-2", "7-11"], "7-11"), ([], "0-0")]
)
def test_the_highest_position_is_kept(noted: list[str], highest: str) -> None:
    position = HighestPosition()
    for one in noted:
        position.note(one)

    assert position.text == highest
