"""A reply that is lost leaves its command carried out: what is then done twice counts once."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from urllib.parse import urlsplit

import pytest

from learner.exchange.request_sender import RequestSender
from learner.rollouts.rollout import State
from tests.learner.builders import a_ledger, a_requested_rollout, a_window
from tests.support.proxy import Mood, Proxy
from tests.support.waiting import until, until_answered
from tppo import codec
from tppo.process.cancellation import cancel_all
from tppo.streams import StreamsUnavailable, scripts
from tppo.streams.connection import RedisClient, connect
from tppo.streams.contract import BEGINNING, position_of
from tppo.streams.redis import RedisStreams


@pytest.fixture
def proxy(redis_url: str) -> Iterator[Proxy]:
    proxy = Proxy(urlsplit(redis_url).port or 6379)
    yield proxy
    proxy.close()


@pytest.fixture
async def proxied(proxy: Proxy, run_name: str) -> AsyncIterator[RedisStreams]:
    """The run's streams as a process sees them whose replies may be lost."""
    client = await connect(f"redis://127.0.0.1:{proxy.port}")
    for script in (scripts.PUT, scripts.COMPLETE):  # in a run they are: only the very first call finds none
        await client.script_load(script)
    yield RedisStreams(client, run=run_name, lease_seconds=60)
    await client.aclose()


@pytest.fixture
def direct(redis_client: RedisClient, run_name: str) -> RedisStreams:
    """The same streams, as all others see them."""
    return RedisStreams(redis_client, run=run_name, lease_seconds=60)


async def send(outbox: RequestSender, direct: RedisStreams, proxy: Proxy) -> None:
    """The outbox's one request, whose first reply is lost."""

    async def is_there() -> bool:
        return (await direct.window_requests.depth()).num_waiting == 1

    serving = asyncio.create_task(outbox.serve())
    with proxy.in_mood(Mood.DROP_REPLIES):
        outbox.flush()
        await until_answered(is_there, "the request in the queue")
        await until(lambda: outbox.last_error, "an error of the outbox")
    await until(lambda: not outbox.unsent(), "an outbox that has sent everything")
    await cancel_all([serving])


async def test_a_request_that_was_sent_twice_is_trained_once(
    proxied: RedisStreams, direct: RedisStreams, proxy: Proxy
) -> None:
    ledger = a_ledger()
    rollout = a_requested_rollout(ledger)
    await send(RequestSender(proxied, ledger), direct, proxy)
    leases = await direct.window_requests.lease("generation-0", max_count=9, wait_seconds=0)
    result = codec.encode_inbox_record(a_window("r"))
    await direct.window_requests.complete("generation-0", [(lease, result) for lease in leases])

    for entry in await direct.inbox.read(BEGINNING, max_count=9, wait_seconds=0):
        ledger.add_window(position_of(entry.position), a_window("r"))

    assert len(leases) == 2
    assert ledger.duplicates["window"] == 1
    assert (rollout.state, len(rollout.response_tokens)) == (State.READY, 4)
    assert ledger.conservation().holds


async def test_a_result_that_is_delivered_again_is_in_the_inbox_once(
    proxied: RedisStreams, direct: RedisStreams, proxy: Proxy
) -> None:
    await direct.window_requests.put([b"request"])
    leases = await proxied.window_requests.lease("generation-0", max_count=1, wait_seconds=0)
    results = [(lease, b"result") for lease in leases]

    with proxy.in_mood(Mood.DROP_REPLIES), pytest.raises(StreamsUnavailable):
        await proxied.window_requests.complete("generation-0", results)
    is_written_again = await proxied.window_requests.complete("generation-0", results)

    assert is_written_again == [False]
    assert await direct.inbox.length() == 1
