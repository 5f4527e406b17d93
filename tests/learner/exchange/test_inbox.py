"""A full Redis makes the learner take a checkpoint early, so that the inbox can be trimmed."""

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from learner.exchange.inbox import MemoryPressure
from tests.learner.fake_services import FakeTransport
from tests.learner.laboratory import Laboratory, to_the_end
from tests.support.redis_server import StartRedis
from tppo.streams import Lease, MemoryStreams, StreamsUnavailable
from tppo.streams.connection import connect
from tppo.streams.contract import BEGINNING
from tppo.streams.memory import MemoryInbox, MemoryRequestQueue
from tppo.streams.redis import RedisStreams


async def test_a_checkpoint_is_requested_when_it_would_make_room() -> None:
    streams, woken, position = MemoryStreams(lease_seconds=60), asyncio.Event(), BEGINNING
    memory = MemoryPressure(streams, lambda: position, woken.set)
    await streams.inbox.append([b"a"])

    await memory.look()
    assert not memory.take_checkpoint_request(), "there is room"

    streams.has_no_room = True
    await memory.look()
    assert not memory.take_checkpoint_request(), "what is in the inbox is not in the ledger yet"

    position = "1-0"
    await memory.look()
    assert (woken.is_set(), memory.take_checkpoint_request(), memory.take_checkpoint_request()) == (
        True,
        True,
        False,
    )

    await streams.inbox.trim("1-0")
    await memory.look()
    assert not memory.take_checkpoint_request(), "there is nothing to trim"


class SmallQueue(MemoryRequestQueue):
    """A queue whose results find room for so many records in the inbox, or wait."""

    inbox: MemoryInbox
    most: int

    async def complete(self, worker: str, results: Sequence[tuple[Lease, bytes]]) -> list[bool]:
        while await self.inbox.length() >= self.most:  # noqa: ASYNC110  as the services do
            await asyncio.sleep(0.001)
        return await super().complete(worker, results)


class SmallStreams(MemoryStreams):
    """A server with room for so many results."""

    def __init__(self, most: int) -> None:
        super().__init__(lease_seconds=60)
        self._most = most
        self.window_requests = self._small_queue()
        self.reward_requests = self._small_queue()

    async def is_full(self) -> bool:
        return await self.inbox.length() >= self._most

    def _small_queue(self) -> SmallQueue:
        queue = SmallQueue(self.inbox, 60, time.monotonic)
        queue.inbox, queue.most = self.inbox, self._most
        return queue


async def test_a_run_goes_on_in_a_server_smaller_than_the_log_between_two_checkpoints(tmp_path: Path) -> None:
    laboratory = Laboratory(tmp_path, "lockstep")
    section = laboratory.config.checkpoint.model_copy(update={"save_freq": 0})
    laboratory.config = laboratory.config.model_copy(update={"checkpoint": section})
    streams, transport = SmallStreams(40), FakeTransport()

    await to_the_end(laboratory.learner("run", streams, transport), streams, transport)

    assert [line["step"] for line in laboratory.lines("run") if line["kind"] == "step"] == [1, 2, 3, 4, 5, 6]


async def test_a_server_at_its_memory_limit_refuses_results_until_there_is_room(
    start_redis: StartRedis, tmp_path: Path
) -> None:
    with start_redis(tmp_path) as server:
        client = await connect(server.url)
        streams = RedisStreams(client, run="r", lease_seconds=60)
        await streams.window_requests.put([b"a"])
        (lease,) = await streams.window_requests.lease("w", max_count=1, wait_seconds=0)
        assert not await streams.is_full()
        await streams.inbox.append([bytes(2**20)])
        await client.config_set("maxmemory", (await client.info("memory"))["used_memory"] - 2**18)

        assert await streams.is_full()
        with pytest.raises(StreamsUnavailable):
            await streams.window_requests.complete("w", [(lease, b"result")])
        with pytest.raises(StreamsUnavailable):
            await streams.window_requests.put([b"b"])

        (entry,) = await streams.inbox.read(BEGINNING, max_count=9, wait_seconds=0)
        await streams.inbox.trim(entry.position)
        assert await streams.window_requests.complete("w", [(lease, b"result")]) == [True]
        await client.aclose()
