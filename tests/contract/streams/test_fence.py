import asyncio

import pytest

from tests.support.outstanding import outstanding
from tppo.process.presence import Presence, announce, present
from tppo.streams.connection import RedisClient
from tppo.streams.contract import BEGINNING
from tppo.streams.fence import Fence, FencedError, Holder
from tppo.streams.redis import RedisStreams

HOUR = 3600.0


def a_fence(client: RedisClient, run: str, *, host: str = "here", lease_seconds: float = HOUR) -> Fence:
    return Fence(client, run, host=host, lease_seconds=lease_seconds)


async def granted(fence: Fence, at_least: int = 1, dead_incarnation: int = 0) -> int:
    """The incarnation, as soon as it is granted."""
    answer = await fence.acquire(at_least, dead_incarnation=dead_incarnation)
    if not isinstance(answer, Holder):
        return answer
    await asyncio.sleep(0.005)
    return await granted(fence, at_least, dead_incarnation)


async def test_a_run_has_one_learner(redis_client: RedisClient, run_name: str) -> None:
    first, second = (a_fence(redis_client, run_name, host=host) for host in ("here", "there"))

    assert await first.acquire(4) == 4
    refusal = await second.acquire(9)

    assert isinstance(refusal, Holder)
    assert (refusal.incarnation, refusal.host) == (4, "here")
    assert 0 < refusal.remaining_milliseconds <= HOUR * 1000


async def test_an_expired_lease_passes_on_and_the_fence_rises(redis_client: RedisClient, run_name: str) -> None:
    await granted(a_fence(redis_client, run_name, lease_seconds=0.05), at_least=7)

    assert await granted(a_fence(redis_client, run_name), at_least=1) == 8


async def test_a_lease_whose_holder_is_known_to_be_dead_passes_on_at_once(
    redis_client: RedisClient, run_name: str
) -> None:
    fence = a_fence(redis_client, run_name)
    await granted(fence)

    assert isinstance(await fence.acquire(2, dead_incarnation=5), Holder)
    assert await fence.acquire(2, dead_incarnation=1) == 2


async def test_a_lease_that_was_given_back_is_free(redis_client: RedisClient, run_name: str) -> None:
    fence = a_fence(redis_client, run_name)
    await fence.release(await granted(fence))

    assert await fence.acquire(1) == 2


async def test_a_renewed_lease_starts_its_time_again(redis_client: RedisClient, run_name: str) -> None:
    await granted(a_fence(redis_client, run_name, lease_seconds=60))
    await a_fence(redis_client, run_name, lease_seconds=HOUR).renew(1)

    refusal = await a_fence(redis_client, run_name).acquire(1)

    assert isinstance(refusal, Holder)
    assert refusal.remaining_milliseconds > 60_000


async def test_a_server_that_came_back_empty_learns_the_fence_again(redis_client: RedisClient, run_name: str) -> None:
    fence = a_fence(redis_client, run_name)
    await granted(fence, at_least=5)
    await redis_client.delete(f"tppo:{{{run_name}}}:fence", f"tppo:{{{run_name}}}:learner")

    await fence.renew(5)

    refusal = await fence.acquire(1)
    assert isinstance(refusal, Holder)
    assert refusal.incarnation == 5


async def test_what_a_learner_writes_after_its_successor_began_is_refused(
    redis_client: RedisClient, run_name: str
) -> None:
    fence = a_fence(redis_client, run_name)
    zombie = await granted(fence)
    streams = RedisStreams(redis_client, run=run_name, lease_seconds=60, incarnation=zombie)
    await streams.window_requests.put([b"before"])
    await streams.inbox.append([b"record"])
    (entry,) = await streams.inbox.read(BEGINNING, max_count=1, wait_seconds=0)
    await granted(fence, dead_incarnation=zombie)

    me = Presence("learner", "learner", address="", started_at=0.0, pid=1, host="here")
    for write in (
        streams.window_requests.put([b"after"]),
        streams.reward_requests.put([b"after"]),
        streams.inbox.trim(entry.position),
        announce(redis_client, run_name, me, incarnation=zombie),
        fence.renew(zombie),
        fence.release(zombie),
    ):
        with pytest.raises(FencedError, match="incarnation 2, has taken this run over"):
            await write

    assert await outstanding(streams.window_requests) == [b"before"]
    assert await outstanding(streams.reward_requests) == []
    assert await streams.inbox.length() == 1
    assert await present(redis_client, run_name) == []


async def test_the_successors_writes_are_accepted(redis_client: RedisClient, run_name: str) -> None:
    fence = a_fence(redis_client, run_name)
    successor = await granted(fence, dead_incarnation=await granted(fence))
    streams = RedisStreams(redis_client, run=run_name, lease_seconds=60, incarnation=successor)

    await streams.window_requests.put([b"a"])

    assert await outstanding(streams.window_requests) == [b"a"]
