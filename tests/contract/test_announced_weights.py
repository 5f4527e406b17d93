"""What the learner announces before it sends weights."""

import pytest

from tppo.announced_weights import AnnouncedWeights, announce_weights, announced_weights
from tppo.streams.connection import RedisClient
from tppo.streams.fence import Fence, FencedError


async def test_the_newest_announcement_counts(redis_client: RedisClient, run_name: str) -> None:
    assert await announced_weights(redis_client, run_name) is None

    for incarnation, policy_version in [(1, 5), (1, 9), (1, 7)]:
        await announce_weights(redis_client, run_name, AnnouncedWeights(incarnation, policy_version, "blake3:ab"))
    assert await announced_weights(redis_client, run_name) == AnnouncedWeights(1, 9, "blake3:ab")

    await announce_weights(redis_client, run_name, AnnouncedWeights(2, 3, "sha256:cd"))
    assert await announced_weights(redis_client, run_name) == AnnouncedWeights(2, 3, "sha256:cd")


async def test_a_learner_that_was_replaced_announces_nothing(redis_client: RedisClient, run_name: str) -> None:
    await Fence(redis_client, run_name, host="here", lease_seconds=15.0).acquire(2)

    with pytest.raises(FencedError):
        await announce_weights(redis_client, run_name, AnnouncedWeights(1, 9, "blake3:ab"))
    assert await announced_weights(redis_client, run_name) is None


async def test_what_is_no_announcement_counts_as_none_and_is_replaced(redis_client: RedisClient, run_name: str) -> None:
    await redis_client.set(f"tppo:{{{run_name}}}:weights", b"\xff garbage")
    assert await announced_weights(redis_client, run_name) is None

    await announce_weights(redis_client, run_name, AnnouncedWeights(1, 9, "blake3:ab"))
    assert await announced_weights(redis_client, run_name) == AnnouncedWeights(1, 9, "blake3:ab")


async def test_a_full_server_takes_the_announcement(redis_client: RedisClient, run_name: str) -> None:
    limit = (await redis_client.config_get("maxmemory"))["maxmemory"] or "0"
    await redis_client.config_set("maxmemory", 1)
    try:
        await announce_weights(redis_client, run_name, AnnouncedWeights(1, 9, "blake3:ab"))
    finally:
        await redis_client.config_set("maxmemory", limit)

    assert await announced_weights(redis_client, run_name) == AnnouncedWeights(1, 9, "blake3:ab")
