"""What is tried again while Redis is in trouble, and what is not."""

import asyncio
from pathlib import Path

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from tests.faults.redis_of_a_test import Redis
from tppo.patience import until_redis_answers
from tppo.streams import RedisStreams, RequestQueue, connect

WAIT_SECONDS = 30.0  # far more than a healthy machine takes
REFUSAL = "MISCONF Errors writing to the AOF file: No space left on device"  # as Redis says it


class Server:
    """Fails as often as it is told to, then answers."""

    def __init__(self, *errors: Exception) -> None:
        self._errors = list(errors)

    async def answer(self) -> str:
        if self._errors:
            raise self._errors.pop(0)
        return "answer"


@pytest.mark.parametrize("error", [RedisConnectionError("gone"), ResponseError(REFUSAL)])
async def test_a_server_in_trouble_is_asked_until_it_answers(error: Exception) -> None:
    assert await until_redis_answers(Server(error, error).answer, "asking") == "answer"


async def test_a_server_that_finds_fault_with_the_question_is_not_asked_again() -> None:
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        await until_redis_answers(Server(ResponseError("WRONGTYPE of a key")).answer, "asking")


async def put_for_ever(queue: RequestQueue) -> None:
    """The server learns of the full disk when it writes, which may be a little later."""
    while True:
        await queue.put([b"taken"])


async def test_a_server_that_cannot_write_its_file_is_waited_for(tmp_path: Path) -> None:
    server = Redis(tmp_path / "redis")
    try:
        client = await until_redis_answers(lambda: connect(f"redis://127.0.0.1:{server.port}"), "connecting")
        queue = RedisStreams(client, run="r", lease_seconds=60).window_requests
        with server.full_disk():
            with pytest.raises(ResponseError, match="MISCONF"):
                await asyncio.wait_for(put_for_ever(queue), WAIT_SECONDS)
            waiting = asyncio.create_task(until_redis_answers(lambda: queue.put([b"waits"]), "sending"))
            await asyncio.sleep(0.3)
            assert not waiting.done()
        await asyncio.wait_for(waiting, WAIT_SECONDS)
        assert (await queue.outstanding()).count(b"waits") == 1
        await client.aclose()
    finally:
        server.kill()
