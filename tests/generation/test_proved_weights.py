"""Windows are posted once their weights are proved, and handed back where these are disproved."""

import asyncio
from contextlib import suppress

import pytest

from services.generation.weights.served_weights import ServedWeights
from services.generation.weights.weight_proof import DisprovedWeightsError, looser_tolerance
from tests.generation.fake_engine import PROBE, FakeEngine, an_update_of
from tests.generation.serving import all_that_can_happen, ask, service_on
from tests.generation.tiny_models import a_request
from tests.support.leased_worker import running
from tests.support.streams import inbox_records, memory_streams
from tests.support.waiting import until, until_answered
from tppo.config.sections.placement import Placement
from tppo.process.leased_worker import LeasedWorker
from tppo.rollout import FinishReason, Window
from tppo.streams import MemoryStreams
from tppo.weights import WeightUpdate


@pytest.fixture
def streams() -> MemoryStreams:
    return memory_streams()


async def wait_for_windows(engine: FakeEngine, count: int) -> None:
    """Until the engine has that many, which end at once."""
    for _ in range(count):
        await engine.asked.get()


async def test_windows_of_weights_without_a_verdict_are_held_back_until_they_are_proved(
    streams: MemoryStreams,
) -> None:
    engine = FakeEngine(policy_version=-1)
    engine.may_answer.clear()
    weights = ServedWeights(engine)
    service = service_on(streams.window_requests, engine, weights)
    await ask(streams, a_request("a"), a_request("b"))

    async with running(service):
        taking = asyncio.create_task(weights.take(an_update_of(0), PROBE))
        await wait_for_windows(engine, 2)
        await all_that_can_happen()
        assert (await streams.inbox.length(), service.status()["proof"]) == (0, "unproved")
        engine.may_answer.set()
        windows = await inbox_records(streams, Window, 2)
        await taking

    assert {window.rollout_id for window in windows} == {"a", "b"}
    assert (service.status()["proof"], service.status()["probe_difference"]) == ("proved", 0.0)


async def test_a_window_that_proved_weights_sampled_does_not_wait_for_the_verdict_on_newer_ones(
    streams: MemoryStreams,
) -> None:
    engine = FakeEngine(is_instant=False)
    weights = ServedWeights(engine)
    await ask(streams, a_request("a"))

    async with running(service_on(streams.window_requests, engine, weights)):
        await engine.asked.get()
        engine.may_answer.clear()
        taking = asyncio.create_task(weights.take(an_update_of(1), PROBE))
        await until(lambda: weights.status()["proof"] == "unproved", "the update")
        engine.policy_version = 0  # which sampled this window
        engine.released.set()
        (window,) = await inbox_records(streams, Window, 1)
        engine.policy_version = 1
        engine.may_answer.set()
        await taking

    assert window.oldest_policy_version == 0


async def disproved(weights: ServedWeights, engine: FakeEngine, policy_version: int) -> str:
    engine.probed = -3.5
    with pytest.raises(DisprovedWeightsError) as raised:
        await weights.take(an_update_of(policy_version), PROBE)
    engine.probed = -1.0
    return str(raised.value)


async def test_windows_of_disproved_weights_go_to_another_generator_at_once(streams: MemoryStreams) -> None:
    engine = FakeEngine(is_instant=False)
    weights = ServedWeights(engine)
    service = service_on(streams.window_requests, engine, weights, name="wrong")
    await ask(streams, *(a_request(str(number)) for number in range(3)))

    async with running(service):
        await wait_for_windows(engine, 3)
        said = await disproved(weights, engine, 1)
        async with running(service_on(streams.window_requests, FakeEngine(), name="right")):
            windows = await inbox_records(streams, Window, 3)
        assert service.status()["num_held"] == 0

    assert {window.generator for window in windows} == {"right"}
    assert said == (
        "with the weights of version 1 the engine differs from the learner by up to 2.5 nats, 2.5 in the mean "
        "(expected at most 0.002 and 0.0002), at token 1 of a row of 2"
    )
    status = service.status()
    assert (status["proof"], status["proof_error"], status["num_disagreements"]) == ("disproved", said, 1)
    assert status["probe_difference"] == 2.5
    assert int(str(status["num_handed_back"])) >= 3  # one more where a lease was under way


async def test_a_generator_with_disproved_weights_takes_requests_again_once_they_are_sent_again(
    streams: MemoryStreams,
) -> None:
    engine, ended = FakeEngine(is_instant=False), list[str]()
    weights = ServedWeights(engine)
    weights.on_refusal = lambda: ended.append("worker")
    await ask(streams, a_request("a"))

    async with running(service_on(streams.window_requests, engine, weights)):
        await engine.asked.get()
        await disproved(weights, engine, 1)
        await until_answered(streams.window_requests.depth, "the release", is_met=lambda depth: depth.num_waiting == 1)
        engine.released.set()
        await weights.take(an_update_of(1), PROBE)
        (window,) = await inbox_records(streams, Window, 1)

    assert (window.oldest_policy_version, ended) == (1, [])
    assert weights.status()["proof_error"] == ""


async def test_weights_that_are_disproved_twice_end_the_generator() -> None:
    engine, ended = FakeEngine(), list[str]()
    weights = ServedWeights(engine)
    weights.on_refusal = lambda: ended.append("worker")

    await disproved(weights, engine, 1)
    await weights.take(an_update_of(2), PROBE)  # an agreement in between: the count begins again
    await disproved(weights, engine, 3)
    assert (weights.refusal, ended) == (None, [])
    said = await disproved(weights, engine, 4)

    assert (str(weights.refusal), ended) == (said, ["worker"])


async def test_a_failed_window_waits_for_the_verdict_too(streams: MemoryStreams) -> None:
    """Weights that are wrong make logits that are not finite; with the right ones the request may be served."""
    engine = FakeEngine(policy_version=-1)
    engine.may_answer.clear()
    weights = ServedWeights(engine)
    await ask(streams, a_request("bad"))

    async with running(service_on(streams.window_requests, engine, weights)):
        taking = asyncio.create_task(weights.take(an_update_of(0), PROBE))
        await engine.asked.get()
        await all_that_can_happen()
        assert await streams.inbox.length() == 0
        engine.may_answer.set()
        (window,) = await inbox_records(streams, Window, 1)
        await taking

    assert window.finish_reason is FinishReason.FAILED


async def test_windows_of_weights_that_never_got_a_verdict_are_handed_back(streams: MemoryStreams) -> None:
    """The learner is gone in mid-proof, and the next one sends other weights."""
    engine = FakeEngine(policy_version=-1)
    engine.may_answer.clear()
    weights = ServedWeights(engine)
    service = service_on(streams.window_requests, engine, weights)
    await ask(streams, a_request("a"))

    async with running(service):
        taking = asyncio.create_task(weights.take(an_update_of(0), PROBE))
        await engine.asked.get()
        await all_that_can_happen()  # the window waits for the verdict
        taking.cancel()
        with suppress(asyncio.CancelledError):
            await taking
        engine.may_answer.set()
        await weights.take(an_update_of(1), PROBE)
        (window,) = await inbox_records(streams, Window, 1)

    assert window.oldest_policy_version == 1
    assert service.status()["num_handed_back"] == 1


async def test_an_engine_that_answers_with_other_weights_or_for_fewer_tokens_disagrees() -> None:
    class Stuck(FakeEngine):
        async def update_weights(self, update: WeightUpdate) -> str:
            return update.digest

    with pytest.raises(DisprovedWeightsError, match="answers the probe with those of version 4"):
        await ServedWeights(Stuck(policy_version=4)).take(an_update_of(5), PROBE)


def test_the_tolerance_is_that_of_the_coarser_type() -> None:
    exact, coarse = (Placement(dtype, "cpu", "key") for dtype in ("float32", "bfloat16"))

    assert looser_tolerance(exact, exact).worst == 0.002
    assert looser_tolerance(coarse, exact).worst == 1.0


async def test_a_worker_that_stops_releases_what_waits_for_a_verdict(streams: MemoryStreams) -> None:
    engine = FakeEngine(policy_version=-1)
    engine.may_answer.clear()
    weights = ServedWeights(engine)
    service: LeasedWorker = service_on(streams.window_requests, engine, weights)
    await ask(streams, a_request("a"))

    async with running(service):
        taking = asyncio.create_task(weights.take(an_update_of(0), PROBE))
        await engine.asked.get()
    taking.cancel()

    depth = await streams.window_requests.depth()
    assert (depth.num_waiting, depth.num_leased, await streams.inbox.length()) == (1, 0, 0)
