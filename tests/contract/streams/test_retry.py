"""What is retried while Redis is unavailable, what is not, and the delays between the attempts."""

import asyncio
from pathlib import Path

import pytest

from tests.support.outstanding import outstanding
from tests.support.redis_server import StartRedis
from tests.support.waiting import DEADLINE_SECONDS
from tppo.process.backoff import Backoff
from tppo.streams import RequestQueue, StreamsError, StreamsUnavailable, until_redis_answers
from tppo.streams.connection import connect
from tppo.streams.redis import RedisStreams


class Server:
    """Fails once with each error, then answers."""

    def __init__(self, *errors: Exception) -> None:
        self._errors = list(errors)

    async def answer(self) -> str:
        if self._errors:
            raise self._errors.pop(0)
        return "answer"


async def test_an_action_is_retried_until_the_server_answers() -> None:
    gone = StreamsUnavailable("gone")

    assert await until_redis_answers(Server(gone, gone).answer, "asking") == "answer"


async def test_an_error_that_a_retry_would_repeat_is_raised() -> None:
    with pytest.raises(StreamsError, match="WRONGTYPE"):
        await until_redis_answers(Server(StreamsError("WRONGTYPE of a key")).answer, "asking")


def test_delays_double_up_to_the_longest_and_begin_again_after_a_success() -> None:
    backoff = Backoff(first_seconds=1, longest_seconds=5)

    assert [backoff.next_delay() for _ in range(4)] == [1, 2, 4, 5]
    backoff.reset()
    assert backoff.next_delay() == 1


def test_jitter_leaves_a_share_of_each_delay_to_chance() -> None:
    delays = {Backoff(first_seconds=1, longest_seconds=5, jitter=0.5).next_delay() for _ in range(100)}

    assert len(delays) > 1
    assert all(0.5 <= delay <= 1 for delay in delays)


async def put_until_refused(queue: RequestQueue) -> None:
    """The server learns of the full disk when it writes, which may be a little later."""
    while True:
        await queue.put([b"taken"])


async def test_a_server_that_cannot_write_its_file_is_waited_for(start_redis: StartRedis, tmp_path: Path) -> None:
    with start_redis(tmp_path) as server:
        client = await connect(server.url)
        queue = RedisStreams(client, run="r", lease_seconds=60).window_requests
        with server.full_disk():
            with pytest.raises(StreamsUnavailable, match="MISCONF"):
                await asyncio.wait_for(put_until_refused(queue), DEADLINE_SECONDS)
            waiting = asyncio.create_task(until_redis_answers(lambda: queue.put([b"waits"]), "sending"))
            await asyncio.sleep(0.3)
            assert not waiting.done()
        await asyncio.wait_for(waiting, DEADLINE_SECONDS)
        assert (await outstanding(queue)).count(b"waits") == 1
        await client.aclose()
