import json

import pytest

from tppo.process.presence import Presence, announce, presence_key, present, withdraw
from tppo.streams.connection import RedisClient


def a_presence(name: str, kind: str = "generation") -> Presence:
    return Presence(name=name, kind=kind, address="127.0.0.1:4000", started_at=1.0, pid=12, host="h")


async def backdate(client: RedisClient, run: str, name: str) -> None:
    """Moves a heartbeat an hour into the past."""
    text = await client.hget(presence_key(run, "generation"), name)
    found = json.loads(text or "")
    found["seen_at"] -= 3600
    await client.hset(presence_key(run, "generation"), name, json.dumps(found))


async def names(client: RedisClient, run: str) -> list[str]:
    """Who is there, with a limit of an hour, which no slow test exceeds."""
    return [one.name for one in await present(client, run, gone_after_seconds=3600)]


async def test_no_process_is_present_in_a_new_run(redis_client: RedisClient, run_name: str) -> None:
    assert await present(redis_client, run_name) == []


async def test_an_announced_process_is_present_with_its_status(redis_client: RedisClient, run_name: str) -> None:
    status = {"policy_version": 3, "last_error": "", "busy": 0.5}
    one = Presence("g", "generation", address="", started_at=5.25, pid=1, host="h", status=status)

    await announce(redis_client, run_name, one)

    (seen,) = await present(redis_client, run_name, gone_after_seconds=3600)
    assert (seen.name, seen.kind, seen.started_at, seen.status) == ("g", "generation", 5.25, status)


async def test_a_heartbeat_has_the_time_of_the_server(redis_client: RedisClient, run_name: str) -> None:
    before = await redis_client.time()
    await announce(redis_client, run_name, a_presence("g"))
    after = await redis_client.time()

    (seen,) = await present(redis_client, run_name, gone_after_seconds=3600)

    assert before[0] + before[1] / 1e6 <= seen.seen_at <= after[0] + after[1] / 1e6


async def test_presences_are_sorted_by_kind_and_name(redis_client: RedisClient, run_name: str) -> None:
    for name, kind in (("b", "reward"), ("c", "generation"), ("a", "reward")):
        await announce(redis_client, run_name, a_presence(name, kind))

    assert await names(redis_client, run_name) == ["c", "a", "b"]


async def test_a_process_whose_heartbeat_is_missing_for_too_long_is_gone(
    redis_client: RedisClient, run_name: str
) -> None:
    await announce(redis_client, run_name, a_presence("silent"))
    await announce(redis_client, run_name, a_presence("alive"))

    await backdate(redis_client, run_name, "silent")

    assert await names(redis_client, run_name) == ["alive"]


async def test_a_new_heartbeat_makes_the_process_present_again(redis_client: RedisClient, run_name: str) -> None:
    await announce(redis_client, run_name, a_presence("g"))
    await backdate(redis_client, run_name, "g")

    await announce(redis_client, run_name, a_presence("g"))

    assert await names(redis_client, run_name) == ["g"]


async def test_a_withdrawn_process_is_gone_at_once(redis_client: RedisClient, run_name: str) -> None:
    await announce(redis_client, run_name, a_presence("g"))

    await withdraw(redis_client, run_name, a_presence("g"))

    assert await present(redis_client, run_name) == []


async def test_runs_do_not_share_presences(redis_client: RedisClient, run_name: str) -> None:
    await announce(redis_client, run_name, a_presence("g"))

    assert await present(redis_client, f"{run_name}-other") == []


async def test_a_process_of_one_kind_cannot_announce_itself_as_another(
    redis_client: RedisClient, run_name: str
) -> None:
    await announce(redis_client, run_name, a_presence("g"))
    forged = await redis_client.hget(presence_key(run_name, "generation"), "g")
    assert forged is not None
    await redis_client.hset(presence_key(run_name, "reward"), "g", forged)

    assert [one.kind for one in await present(redis_client, run_name, gone_after_seconds=3600)] == ["generation"]


async def test_malformed_presences_are_refused(redis_client: RedisClient, run_name: str) -> None:
    await redis_client.hset(presence_key(run_name, "reward"), "g", '{"name": "g"}')

    with pytest.raises(ValueError, match="is no presence"):
        await present(redis_client, run_name)
