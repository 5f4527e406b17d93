"""A request that kills its workers: no other request is blamed, and in the end it fails with its cause."""

import pytest

from tests.generation.fake_engine import FakeEngine
from tests.generation.serving import ask, service_on
from tests.generation.tiny_models import a_request
from tests.support.leased_worker import after_deaths, running
from tests.support.streams import inbox_records, memory_streams
from tppo.rollout import FinishReason, Window
from tppo.streams import MemoryStreams


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
