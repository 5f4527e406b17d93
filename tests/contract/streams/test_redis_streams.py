"""What Redis alone can get wrong: time, connections, round trips, a server that is too old or came back empty."""

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.support.redis_server import StartRedis
from tppo.streams import Lease, QueueDepth, RequestQueue, StreamsError, StreamsUnavailable
from tppo.streams.connection import RedisClient, connect, require_recent
from tppo.streams.contract import BEGINNING
from tppo.streams.redis import RedisStreams

Edit = Callable[[bytes, bytes], bytes]


@asynccontextmanager
async def proxied(redis_url: str, edit: Edit) -> AsyncIterator[str]:
    """The URL of a proxy that makes `edit(command, reply)` of each reply; an empty one ends the connection."""
    address = urlsplit(redis_url)

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection(address.hostname, address.port)
        while command := await reader.read(2**16):
            server_writer.write(command)
            reply = edit(command, await server_reader.read(2**16))
            if not reply:
                break
            writer.write(reply)
        server_writer.close()
        writer.close()

    async with await asyncio.start_server(forward, "127.0.0.1", 0) as proxy:
        yield f"redis://127.0.0.1:{proxy.sockets[0].getsockname()[1]}"


class CountingRedis(RedisClient):
    """Counts round trips by command."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.num_round_trips: Counter[str] = Counter()

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        self.num_round_trips[args[0]] += 1
        return await super().execute_command(*args, **options)


async def test_a_lease_expires_by_the_servers_clock(redis_client: RedisClient, run_name: str) -> None:
    queue = RedisStreams(redis_client, run=run_name, lease_seconds=0.05).window_requests
    await queue.put([b"a"])
    await queue.lease("w1", max_count=1, wait_seconds=0)

    leases: list[Lease] = []
    while not leases:
        leases = await queue.lease("w2", max_count=1, wait_seconds=0.01)

    assert [lease.payload for lease in leases] == [b"a"]


async def test_expired_leases_are_looked_for_now_and_then_and_released_ones_each_time(
    redis_client: RedisClient, run_name: str
) -> None:
    def opened(look_seconds: float | None = None) -> RequestQueue:
        return RedisStreams(redis_client, run=run_name, lease_seconds=0.05, look_seconds=look_seconds).window_requests

    worker, seldom = opened(), opened(look_seconds=3600.0)
    await worker.put([b"a", b"b"])
    _, released = await worker.lease("w1", max_count=2, wait_seconds=0)
    assert await seldom.lease("w2", max_count=9, wait_seconds=0) == [], "it has looked now"
    await asyncio.sleep(0.06)

    assert await seldom.lease("w2", max_count=9, wait_seconds=0) == []
    await worker.release("w1", [released])
    assert [lease.payload for lease in await seldom.lease("w2", max_count=9, wait_seconds=0)] == [b"b"]
    assert [lease.payload for lease in await opened().lease("w3", max_count=1, wait_seconds=0)] == [b"a"]


async def test_a_look_that_found_as_many_as_were_wanted_is_not_over(redis_client: RedisClient, run_name: str) -> None:
    streams = RedisStreams(redis_client, run=run_name, lease_seconds=0.05, look_seconds=3600.0)
    await streams.window_requests.put([b"a", b"b"])
    await RedisStreams(redis_client, run=run_name, lease_seconds=0.05).window_requests.lease(
        "w1", max_count=2, wait_seconds=0
    )
    await asyncio.sleep(0.06)

    found = [await streams.window_requests.lease("w2", max_count=1, wait_seconds=0) for _ in range(2)]

    assert [[lease.payload for lease in leases] for leases in found] == [[b"a"], [b"b"]]


async def test_a_blocked_worker_is_woken_by_a_new_request(redis_client: RedisClient, run_name: str) -> None:
    queue = RedisStreams(redis_client, run=run_name, lease_seconds=60).window_requests
    num_blocked = num_blocked_before = (await redis_client.info("clients"))["blocked_clients"]
    waiting = asyncio.create_task(queue.lease("w1", max_count=1, wait_seconds=2))
    while num_blocked == num_blocked_before and not waiting.done():
        num_blocked = (await redis_client.info("clients"))["blocked_clients"]

    await queue.put([b"a"])

    leases = await waiting or await queue.lease("w1", max_count=1, wait_seconds=0)  # a busy machine comes too late

    assert [lease.payload for lease in leases] == [b"a"]


async def test_many_leases_and_many_results_cost_one_round_trip_each(redis_url: str, run_name: str) -> None:
    async with CountingRedis.from_url(redis_url, protocol=2) as client:
        assert isinstance(client, CountingRedis)
        queue = RedisStreams(client, run=run_name, lease_seconds=60).window_requests
        await queue.put([b"first"])
        (lease,) = await queue.lease("w1", max_count=1, wait_seconds=0)  # loads the scripts
        await queue.complete("w1", [(lease, b"result")])
        await queue.put([b"request"] * 32)
        client.num_round_trips.clear()

        leases = await queue.lease("w1", max_count=32, wait_seconds=1)
        written = await queue.complete("w1", [(lease, b"result") for lease in leases])

        assert written == [True] * 32
        assert client.num_round_trips == {"EVALSHA": 2}


async def test_the_keys_of_a_run_lie_on_one_node_of_a_cluster(redis_client: RedisClient, run_name: str) -> None:
    streams = RedisStreams(redis_client, run=run_name, lease_seconds=60)
    await streams.window_requests.put([b"a"])
    await streams.reward_requests.put([b"b"])
    await streams.inbox.append([b"c"])

    keys = {key async for key in redis_client.scan_iter(f"tppo:{{{run_name}}}:*")}

    hash_tag = b"{" + run_name.encode() + b"}"
    names = (b"window_requests", b"reward_requests", b"inbox", b"position")
    assert keys == {b"tppo:" + hash_tag + b":" + name for name in names}


async def test_a_server_that_came_back_empty_is_used_like_a_new_one(redis_client: RedisClient, run_name: str) -> None:
    streams = RedisStreams(redis_client, run=run_name, lease_seconds=60)
    queue = streams.window_requests
    await queue.put([b"lost"])
    leases = await queue.lease("w1", max_count=1, wait_seconds=0)
    await redis_client.delete(f"tppo:{{{run_name}}}:window_requests")
    await redis_client.script_flush()

    assert await queue.complete("w1", [(leases[0], b"result of a lost request")]) == [False]
    await queue.renew("w1", leases)
    await queue.release("w1", leases)
    await queue.put([b"new"])
    (lease,) = await queue.lease("w1", max_count=1, wait_seconds=0)
    assert await queue.complete("w1", [(lease, b"result")]) == [True]

    assert [entry.payload for entry in await streams.inbox.read(BEGINNING, max_count=9, wait_seconds=0)] == [b"result"]


async def test_requests_and_leases_outlive_the_servers_death(start_redis: StartRedis, tmp_path: Path) -> None:
    with start_redis(tmp_path, "--appendfsync", "always") as server:
        client = await connect(server.url)
        streams = RedisStreams(client, run="r", lease_seconds=60)
        queue = streams.window_requests
        await queue.put([b"held", b"waiting"])
        held = await queue.lease("w1", max_count=1, wait_seconds=0)

        server.kill()
        with pytest.raises(StreamsUnavailable):
            await queue.depth()

        server.start()
        assert await queue.complete("w1", [(held[0], b"result")]) == [True]
        assert [lease.payload for lease in await queue.lease("w2", max_count=9, wait_seconds=0)] == [b"waiting"]
        await client.aclose()


async def test_a_request_deleted_by_hand_is_forgotten(redis_client: RedisClient, run_name: str) -> None:
    queue = RedisStreams(redis_client, run=run_name, lease_seconds=60).window_requests
    await queue.put([b"deleted", b"kept"])
    deleted, _ = await queue.lease("w1", max_count=2, wait_seconds=0)
    await redis_client.xdel(f"tppo:{{{run_name}}}:window_requests", deleted.entry_id)

    restarted = RedisStreams(redis_client, run=run_name, lease_seconds=60).window_requests

    assert [lease.payload for lease in await restarted.lease("w1", max_count=2, wait_seconds=0)] == [b"kept"]
    assert await restarted.depth() == QueueDepth(num_waiting=0, num_leased=1)


async def test_a_lost_reply_is_an_error_and_nothing_is_sent_again(redis_url: str, run_name: str) -> None:
    def lose(command: bytes, reply: bytes) -> bytes:
        return b"" if b"EVALSHA" in command and b"NOSCRIPT" not in reply else reply

    async with proxied(redis_url, lose) as url:
        client = await connect(url)
        with pytest.raises(StreamsUnavailable):
            await RedisStreams(client, run=run_name, lease_seconds=60).inbox.append([b"a"])
        await client.aclose()

    async with RedisClient.from_url(redis_url) as direct:
        assert await RedisStreams(direct, run=run_name, lease_seconds=60).inbox.length() == 1


async def test_a_server_older_than_7_is_refused(redis_url: str) -> None:
    def make_old(_command: bytes, reply: bytes) -> bytes:
        return re.sub(rb"redis_version:\d+", b"redis_version:6", reply)

    async with proxied(redis_url, make_old) as url:
        with pytest.raises(ValueError, match=r"is version 6\..*; expected 7\.0 or newer"):
            await connect(url)


async def test_a_server_that_is_gone_is_unavailable(redis_url: str) -> None:
    async with proxied(redis_url, lambda _command, reply: reply) as url:
        pass

    with pytest.raises(StreamsUnavailable):
        await connect(url)


@pytest.mark.parametrize("version", ["6.2.14", "5.0"])
def test_a_version_before_7_is_too_old(version: str) -> None:
    with pytest.raises(ValueError, match=rf"is version {version}; expected 7\.0 or newer"):
        require_recent(version)


@pytest.mark.parametrize(("version", "is_recent"), [("6.9", False), ("7.0.15", True), ("10.0", True)])
def test_7_and_newer_versions_are_accepted(version: str, is_recent: bool) -> None:
    refusals = []
    try:
        require_recent(version)
    except ValueError as error:
        refusals.append(error)

    assert (refusals == []) is is_recent


async def test_a_key_of_the_wrong_type_is_an_error_that_no_retry_mends(
    redis_client: RedisClient, run_name: str
) -> None:
    await redis_client.set(f"tppo:{{{run_name}}}:inbox", "no stream")

    with pytest.raises(StreamsError, match="WRONGTYPE") as caught:
        await RedisStreams(redis_client, run=run_name, lease_seconds=60).inbox.append([b"a"])

    assert not isinstance(caught.value, StreamsUnavailable)


async def test_commands_of_one_round_trip_are_answered_in_their_order(redis_client: RedisClient, run_name: str) -> None:
    await redis_client.hset(f"tppo:{{{run_name}}}:a", "name", "one")

    first, second = await redis_client.in_one_round_trip(
        ("HVALS", f"tppo:{{{run_name}}}:a"), ("HVALS", f"tppo:{{{run_name}}}:b")
    )

    assert (first, second) == ([b"one"], [])


async def test_the_first_error_of_one_round_trip_is_raised_in_the_servers_words(
    redis_client: RedisClient, run_name: str
) -> None:
    await redis_client.set(f"tppo:{{{run_name}}}:inbox", "no hash")

    with pytest.raises(StreamsError, match=r"^WRONGTYPE"):
        await redis_client.in_one_round_trip(("TIME",), ("HVALS", f"tppo:{{{run_name}}}:inbox"))


class FlushingRedis(RedisClient):
    """Loses everything just before a blocked read."""

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        if args[0] == "XREADGROUP":
            await super().execute_command("FLUSHALL")
        return await super().execute_command(*args, **options)


async def test_a_worker_outlives_a_flush_while_it_waits_and_just_before(
    start_redis: StartRedis, tmp_path: Path
) -> None:
    with start_redis(tmp_path) as server:
        client, flushing = await connect(server.url), FlushingRedis.from_url(server.url, protocol=2)
        queue = RedisStreams(client, run="r", lease_seconds=60).window_requests
        unlucky = RedisStreams(flushing, run="r", lease_seconds=60).window_requests

        assert await unlucky.lease("w1", max_count=1, wait_seconds=1) == []
        waiting = asyncio.create_task(queue.lease("w2", max_count=1, wait_seconds=2))
        while not (await flushing.info("clients"))["blocked_clients"] and not waiting.done():
            continue
        await flushing.flushall()
        assert await waiting == []

        await queue.put([b"a"])
        assert [lease.payload for lease in await queue.lease("w2", max_count=1, wait_seconds=0)] == [b"a"]
        await client.aclose()
        await flushing.aclose()
