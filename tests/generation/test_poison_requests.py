"""Requests that kill their workers, or that nobody can serve: each ends with its cause, and no other is blamed."""

import asyncio

import pytest

from services.generation.weights.served_weights import ServedWeights
from tests.generation.fake_engine import FakeEngine
from tests.generation.serving import ask, service_on
from tests.generation.tiny_models import a_request
from tests.support.leased_worker import after_deaths, running
from tests.support.outstanding import outstanding
from tests.support.streams import inbox_records, memory_streams
from tests.support.waiting import until_answered
from tppo.announced_weights import AnnouncedWeights
from tppo.rollout import FinishReason, Window
from tppo.streams import MemoryStreams, StreamsUnavailable
from tppo.weights import WeightUpdate


@pytest.fixture
def streams() -> MemoryStreams:
    return memory_streams()


async def test_a_request_that_three_workers_died_over_fails_with_that_cause(streams: MemoryStreams) -> None:
    await ask(streams, a_request("poison"))
    engine = FakeEngine()

    async with running(service_on((await after_deaths(streams, "generation-0", 3)).window_requests, engine)):
        (window,) = await inbox_records(streams, Window, 1)

    assert (window.finish_reason, window.error) == (FinishReason.FAILED, "3 workers ended while serving this request")
    assert engine.asked.empty()


async def test_requests_that_two_workers_died_over_are_served_one_by_one(streams: MemoryStreams) -> None:
    await ask(streams, a_request("poison"), a_request("neighbour"))
    engine = FakeEngine(is_instant=False)

    async with running(service_on((await after_deaths(streams, "generation-0", 2)).window_requests, engine)):
        first = await engine.asked.get()
        depth = await streams.window_requests.depth()
        engine.released.set()
        found = await inbox_records(streams, Window, 2)

    assert (depth.num_leased, depth.num_waiting) == (1, 1)
    assert first.rollout_id == "poison"
    assert {window.finish_reason for window in found} == {FinishReason.LENGTH}


async def test_a_request_on_its_last_delivery_waits_for_what_runs_and_releases_the_others() -> None:
    now = 0.0
    streams = memory_streams(lease_seconds=10.0, clock=lambda: now)
    queue, engine = streams.window_requests, FakeEngine(is_instant=False)
    await ask(streams, a_request("suspect"))
    await queue.lease("generation-1", max_count=1, wait_seconds=0)
    now += 11.0  # it died
    await queue.lease("generation-2", max_count=1, wait_seconds=0)
    await ask(streams, a_request("running"))

    async with running(service_on(queue, engine)):
        assert (await engine.asked.get()).rollout_id == "running"
        now += 11.0  # generation-2 died as well
        await ask(streams, a_request("other"))
        engine.released.set()
        found = await inbox_records(streams, Window, 3)

    assert [window.rollout_id for window in found] == ["running", "suspect", "other"]


@pytest.mark.parametrize("poison", [bytes.fromhex("9f1c55e2077ab3d4c8ff"), b""])
async def test_a_request_that_cannot_be_decoded_is_a_dead_letter_and_the_next_is_served(
    streams: MemoryStreams, poison: bytes
) -> None:
    await streams.window_requests.put([poison])
    await ask(streams, a_request("sound"))
    service = service_on(streams.window_requests, FakeEngine())

    async with running(service):
        (window,) = await inbox_records(streams, Window, 1)

    (letter,) = await streams.dead_letters.newest(9)
    assert window.rollout_id == "sound"
    assert (letter.source, letter.payload) == ("window_requests", poison)
    assert (await outstanding(streams.window_requests), service.status()["num_rejected"]) == ([], 1)


async def test_poison_that_three_workers_died_over_is_a_dead_letter(streams: MemoryStreams) -> None:
    await streams.window_requests.put([b"\xff\xff"])

    async with running(service_on((await after_deaths(streams, "generation-0", 3)).window_requests, FakeEngine())):
        await until_answered(lambda: streams.dead_letters.newest(9), "a dead letter")

    assert await outstanding(streams.window_requests) == []


async def test_a_request_for_weights_that_nobody_announced_is_a_dead_letter(streams: MemoryStreams) -> None:
    async def announced() -> AnnouncedWeights:
        return AnnouncedWeights(incarnation=1, policy_version=6, digest="ab")

    engine = FakeEngine(policy_version=4)
    weights = ServedWeights(engine)
    await ask(streams, a_request("huge", min_policy_version=2**60), a_request("next", min_policy_version=6))
    service = service_on(
        streams.window_requests, engine, weights, capacity=1, announced=announced, unannounced_seconds=0.01
    )

    async with running(service):
        (letter,) = await until_answered(lambda: streams.dead_letters.newest(9), "a dead letter")
        await weights.take(WeightUpdate(6, 1, "ab", {}))
        (window,) = await inbox_records(streams, Window, 1)

    assert (window.rollout_id, window.oldest_policy_version) == ("next", 6)
    assert letter.cause == (
        "min_policy_version 1152921504606846976; expected at most 6, the newest that the learner has announced, "
        "after 0.01 s"
    )


@pytest.mark.parametrize("error", [None, StreamsUnavailable("connection refused")])
async def test_a_request_waits_for_weights_where_redis_does_not_say_what_was_announced(
    streams: MemoryStreams, error: StreamsUnavailable | None
) -> None:
    looks: asyncio.Queue[None] = asyncio.Queue()

    async def announced() -> None:
        looks.put_nowait(None)
        if error is not None:
            raise error

    engine = FakeEngine(policy_version=4)
    weights = ServedWeights(engine)
    await ask(streams, a_request("newer", min_policy_version=6))

    async with running(
        service_on(streams.window_requests, engine, weights, announced=announced, unannounced_seconds=0.01)
    ):
        for _ in range(2):
            await looks.get()
        await weights.take(WeightUpdate(6, 1, "ab", {}))
        (window,) = await inbox_records(streams, Window, 1)

    assert window.oldest_policy_version == 6
