"""Window requests served on streams in memory by a fake engine."""

import asyncio

import pytest

from services.generation.weights.served_weights import ServedWeights
from tests.generation.fake_engine import FakeEngine, an_update_of
from tests.generation.serving import ask, service_on
from tests.generation.tiny_models import a_request
from tests.support.leased_worker import Heartbeats, ObservedQueue, running
from tests.support.outstanding import outstanding
from tests.support.streams import inbox_records, memory_streams
from tests.support.weights import PROBE
from tppo.rollout import FinishReason, Window
from tppo.streams import MemoryStreams


@pytest.fixture
def streams() -> MemoryStreams:
    return memory_streams()


async def test_a_request_becomes_a_window_with_the_generators_name(streams: MemoryStreams) -> None:
    await ask(streams, a_request("a", window_index=3))

    async with running(service_on(streams.window_requests, FakeEngine())):
        (window,) = await inbox_records(streams, Window, 1)

    assert (window.key, list(window.tokens), window.generator) == (("a", 3), [7, 8], "generation-0")
    assert await outstanding(streams.window_requests) == []


async def test_a_request_that_the_engine_refuses_becomes_a_failed_window(streams: MemoryStreams) -> None:
    await ask(streams, a_request("bad", is_evaluation=True), a_request("good"))
    service = service_on(streams.window_requests, FakeEngine())

    async with running(service):
        found = {window.rollout_id: window for window in await inbox_records(streams, Window, 2)}

    assert found["bad"].finish_reason is FinishReason.FAILED
    assert (found["bad"].error, len(found["bad"].tokens), found["bad"].is_evaluation) == ("too long", 0, True)
    assert found["good"].finish_reason is FinishReason.LENGTH
    assert (service.status()["num_failed"], service.status()["last_error"]) == (1, "too long")


async def test_the_heartbeat_says_what_generators_are_compared_by(streams: MemoryStreams) -> None:
    engine = FakeEngine(is_instant=False)
    weights = ServedWeights(engine)
    await weights.take(an_update_of(4), PROBE)
    service = service_on(streams.window_requests, engine, weights)
    await ask(streams, a_request("a"), a_request("b"))

    async with running(service):
        await engine.asked.get()
        await engine.asked.get()
        status = service.status()
        engine.released.set()
        await inbox_records(streams, Window, 2)

    expected = {
        "policy_version": 4,
        "num_held": 2,
        "kv_cache_use": 0.25,
        "num_tokens_generated": 30,
        "num_prefill_tokens": 5,
        "num_shared_prefill_tokens": 0,
        "probe_difference": 0.0,
        "proof": "proved",
    }
    assert {name: status[name] for name in expected} == expected
    assert isinstance(status["tokens_per_second"], float)


async def test_an_engine_that_breaks_ends_the_service(streams: MemoryStreams) -> None:
    engine = FakeEngine()
    engine.failure = RuntimeError("the decode loop failed")
    await ask(streams, a_request())

    with pytest.raises(ExceptionGroup) as raised:
        await service_on(streams.window_requests, engine).run()

    assert raised.group_contains(RuntimeError, match="the decode loop failed")


async def test_nothing_is_leased_before_the_first_weights(streams: MemoryStreams) -> None:
    engine = FakeEngine(policy_version=-1)
    weights = ServedWeights(engine)
    heartbeats = Heartbeats()
    await ask(streams, a_request())

    async with running(service_on(streams.window_requests, engine, weights, heartbeats=heartbeats)):
        await heartbeats.sent.get()  # the loops run
        assert (await streams.window_requests.depth()).num_leased == 0
        await weights.take(an_update_of(0))
        (window,) = await inbox_records(streams, Window, 1)

    assert window.oldest_policy_version == 0


async def test_a_service_without_weights_stops(streams: MemoryStreams) -> None:
    service = service_on(streams.window_requests, FakeEngine(policy_version=-1))
    await ask(streams, a_request())

    async with running(service):
        await asyncio.sleep(0)

    assert (await streams.window_requests.depth()).num_waiting == 1


async def test_a_request_waits_for_weights_that_are_new_enough_while_others_pass(streams: MemoryStreams) -> None:
    engine = FakeEngine(policy_version=4)
    weights = ServedWeights(engine)
    await ask(streams, a_request("newer", min_policy_version=6), a_request("any", min_policy_version=4))

    async with running(service_on(streams.window_requests, engine, weights)):
        (first,) = await inbox_records(streams, Window, 1)
        await weights.take(an_update_of(5))
        await weights.take(an_update_of(6))
        _, second = await inbox_records(streams, Window, 2)

    assert (first.rollout_id, first.oldest_policy_version) == ("any", 4)
    assert (second.rollout_id, second.oldest_policy_version) == ("newer", 6)


async def test_a_request_that_waits_for_weights_keeps_its_lease(streams: MemoryStreams) -> None:
    queue = ObservedQueue(streams.window_requests)
    await ask(streams, a_request("newer", min_policy_version=6))

    async with running(service_on(queue, FakeEngine(), lease_seconds=0.03)):
        while not (renewed := await queue.renewals.get()):
            pass

    assert len(renewed) == 1


async def test_no_more_is_leased_than_runs_and_is_fetched_ahead(streams: MemoryStreams) -> None:
    engine = FakeEngine(is_instant=False)
    await ask(streams, *(a_request(str(number)) for number in range(5)))

    async with running(service_on(streams.window_requests, engine, capacity=3)):
        for _ in range(3):
            await engine.asked.get()
        depth = await streams.window_requests.depth()
        assert (depth.num_leased, depth.num_waiting) == (3, 2)
        engine.released.set()
        found = await inbox_records(streams, Window, 5)

    assert {window.rollout_id for window in found} == set("01234")


async def test_windows_that_end_together_are_delivered_in_one_round_trip(streams: MemoryStreams) -> None:
    engine = FakeEngine(is_instant=False)
    queue = ObservedQueue(streams.window_requests)
    await ask(streams, *(a_request(str(number)) for number in range(4)))

    async with running(service_on(queue, engine)):
        for _ in range(4):
            await engine.asked.get()
        engine.released.set()
        await inbox_records(streams, Window, 4)

    assert (queue.deliveries.get_nowait(), queue.deliveries.qsize()) == (4, 0)


async def test_a_stop_hands_the_unfinished_requests_to_another_generator(streams: MemoryStreams) -> None:
    stuck = FakeEngine(is_instant=False)
    await ask(streams, a_request("a"))

    async with running(service_on(streams.window_requests, stuck)):
        await stuck.asked.get()
    async with running(service_on(streams.window_requests, FakeEngine(), name="generation-1")):
        (window,) = await inbox_records(streams, Window, 1)

    assert window.generator == "generation-1"


async def test_a_window_whose_lease_was_lost_is_not_delivered_twice() -> None:
    now = 0.0
    streams = memory_streams(lease_seconds=10.0, clock=lambda: now)
    slow = FakeEngine(is_instant=False)
    service = service_on(streams.window_requests, slow, name="slow")
    await ask(streams, a_request("a"))

    async with running(service):
        await slow.asked.get()
        now = 11.0  # the lease has expired without a renewal
        async with running(service_on(streams.window_requests, FakeEngine(), name="quick")):
            (window,) = await inbox_records(streams, Window, 1)
        slow.released.set()
        while service.status()["num_held"]:  # noqa: ASYNC110  nothing announces it
            await asyncio.sleep(0)

    assert window.generator == "quick"
    assert await streams.inbox.length() == 1
    assert service.status()["num_leases_lost"] == 1


async def test_a_restarted_generator_serves_what_it_held_before(streams: MemoryStreams) -> None:
    await ask(streams, a_request("a"))
    await streams.window_requests.lease("generation-0", max_count=1, wait_seconds=0)  # and then it died

    async with running(service_on(streams.reopened().window_requests, FakeEngine())):
        (window,) = await inbox_records(streams, Window, 1)

    assert window.rollout_id == "a"


async def test_windows_are_delivered_after_redis_was_away(streams: MemoryStreams) -> None:
    queue = ObservedQueue(streams.window_requests, fails_first=["lease", "complete", "renew"])
    await ask(streams, a_request("a"))

    async with running(service_on(queue, FakeEngine(), lease_seconds=0.03)):
        (window,) = await inbox_records(streams, Window, 1)
        await queue.renewals.get()

    assert window.rollout_id == "a"


async def test_the_status_has_versions_and_the_engines_counts(streams: MemoryStreams) -> None:
    engine = FakeEngine()
    weights = ServedWeights(engine)
    heartbeats = Heartbeats()
    await weights.take(an_update_of(3, incarnation=2))

    async with running(service_on(streams.window_requests, engine, weights, heartbeats=heartbeats)):
        status = await heartbeats.sent.get()

    expected = {
        "policy_version": 3,
        "incarnation": 2,
        "digest": "digest of 3",
        "num_slots": 2,
        "num_active": 1,
        "num_tokens_generated": 30,
        "num_decode_steps": 20,
        "num_active_slot_steps": 30,
        "busy_seconds": 0.5,
        "num_held": 0,
        "num_leases_lost": 0,
        "last_error": "",
    }
    assert expected.items() <= status.items()
