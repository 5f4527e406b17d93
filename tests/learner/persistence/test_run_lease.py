"""Which process may be the learner of a run, and what an earlier one can still do."""

import asyncio
import multiprocessing
import socket
from pathlib import Path

import pytest

from learner.persistence import run_lease
from learner.persistence.run_identity import begin_incarnation, has_ended
from tests.support.redis_server import StartRedis
from tests.support.waiting import DEADLINE_SECONDS
from tppo.config import ConfigError
from tppo.process.presence import announce, present, this_process
from tppo.streams import StreamsUnavailable
from tppo.streams.connection import RedisClient, connect
from tppo.streams.fence import Fence, FencedError, is_held


@pytest.fixture
def fence(redis_client: RedisClient, run_name: str) -> Fence:
    return Fence(redis_client, run_name, host=socket.gethostname(), lease_seconds=3600)


def begin_and_end(folder: Path) -> None:
    begin_incarnation(folder)


@pytest.fixture
def ended(tmp_path: Path) -> int:
    """The incarnation of a learner whose process has ended."""
    process = multiprocessing.get_context("spawn").Process(target=begin_and_end, args=(tmp_path,))
    process.start()
    process.join()
    return 1


def test_each_incarnation_has_a_higher_number_and_the_same_run(tmp_path: Path) -> None:
    identities = [begin_incarnation(tmp_path), begin_incarnation(tmp_path), begin_incarnation(tmp_path, at_least=9)]

    assert [one.incarnation for one in identities] == [1, 2, 9]
    assert len({one.run_id for one in identities}) == 1


def test_only_the_newest_incarnation_may_write_into_the_folder(tmp_path: Path) -> None:
    zombie, successor = begin_incarnation(tmp_path), begin_incarnation(tmp_path)

    successor.require_current()
    with pytest.raises(FencedError, match="incarnation 2, has taken this run over"):
        zombie.require_current()


def test_whether_an_incarnation_has_ended_is_known(tmp_path: Path, ended: int) -> None:
    assert has_ended(tmp_path, ended)

    running = begin_incarnation(tmp_path)

    assert not has_ended(tmp_path, running.incarnation)
    assert not has_ended(tmp_path, 77)


async def test_the_successor_of_a_killed_learner_begins_at_once(fence: Fence, tmp_path: Path, ended: int) -> None:
    assert await fence.acquire(ended) == ended

    successor = await run_lease.acquire(fence, tmp_path)

    assert successor.incarnation == ended + 1


async def test_a_second_learner_is_refused_while_the_first_renews_its_lease(fence: Fence, tmp_path: Path) -> None:
    first = await run_lease.acquire(fence, tmp_path)

    async def the_first_renews(_seconds: float) -> None:
        await fence.renew(first.incarnation)

    with pytest.raises(ConfigError, match=r"another learner, incarnation 1 on .*, is training this run; expected none"):
        await run_lease.acquire(fence, tmp_path, sleep=the_first_renews)


async def test_a_learner_takes_the_lease_and_announces_itself_in_a_full_server(
    start_redis: StartRedis, tmp_path: Path
) -> None:
    with start_redis(tmp_path / "redis") as server:
        client = await connect(server.url)
        await client.config_set("maxmemory", 1)
        with pytest.raises(StreamsUnavailable):
            await client.set("key", "value")
        fence = Fence(client, "r", host=socket.gethostname(), lease_seconds=60)

        identity = await run_lease.acquire(fence, tmp_path / "run")
        await fence.renew(identity.incarnation, "5-1")
        await announce(client, "r", this_process("learner", "learner"), incarnation=identity.incarnation)

        assert [one.name for one in await present(client, "r")] == ["learner"]
        await run_lease.release(fence, identity)
        assert not await is_held(client, "r")
        await client.aclose()


async def test_a_learner_waits_for_a_server_that_cannot_write(start_redis: StartRedis, tmp_path: Path) -> None:
    with start_redis(tmp_path / "redis") as server:
        client = await connect(server.url)
        fence = Fence(client, "r", host=socket.gethostname(), lease_seconds=60)
        await client.execute_command("REPLICAOF", "127.0.0.1", 1)  # a replica writes nothing for anybody
        waiting = asyncio.create_task(run_lease.acquire(fence, tmp_path / "run"))
        await asyncio.sleep(0.3)
        assert not waiting.done()

        await client.execute_command("REPLICAOF", "NO", "ONE")

        assert (await asyncio.wait_for(waiting, DEADLINE_SECONDS)).incarnation == 1
        await client.aclose()


async def test_an_orderly_end_does_not_depend_on_redis(
    start_redis: StartRedis, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with start_redis(tmp_path / "redis") as server:
        client = await connect(server.url)
        fence = Fence(client, "r", host=socket.gethostname(), lease_seconds=60)
        identity = await run_lease.acquire(fence, tmp_path / "run")
        server.kill()

        await run_lease.release(fence, identity)
        await client.aclose()

    assert "cannot release the learner's lease" in caplog.text
    assert "it expires" in caplog.text
