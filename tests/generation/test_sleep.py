"""An engine that shares its device sleeps while the learner trains, and is proved awake before a window is posted."""

import asyncio
import gc

import pytest
import torch
from transformers import PreTrainedConfig, Qwen2Config

from services.generation.transformers_engine.engine import TransformersEngine
from services.generation.update_policy import UpdatePolicy
from services.generation.weights.served_weights import ServedWeights, StaleWeightsError, WeightIdentity
from tests.generation.fake_engine import PROBE, FakeEngine, an_update_of
from tests.generation.serving import all_that_can_happen, ask, service_on
from tests.generation.tiny_models import (
    FAST,
    GENERAL,
    SIZES,
    TOLERANCE,
    Paused,
    a_decoder,
    a_model,
    a_request,
    an_engine,
    an_update,
    expected_logprobs,
)
from tests.support.leased_worker import running
from tests.support.streams import inbox_records, memory_streams
from tests.support.waiting import until
from tppo.rollout import VersionSpan, Window, tokens

BOTH_PATHS = {"fast": FAST["qwen2, tied"], "general": GENERAL["gpt-neox"]}
on_both_paths = pytest.mark.parametrize("config", BOTH_PATHS.values(), ids=BOTH_PATHS.keys())
LARGE = {
    "fast": Qwen2Config(**SIZES | {"hidden_size": 256}, num_key_value_heads=4, tie_word_embeddings=True),
    "general": GENERAL["gpt-neox"],
}


def live_bytes() -> int:
    """Of all tensors of the process, those of one memory once."""
    gc.collect()
    storages = {}
    for one in gc.get_objects():
        if issubclass(type(one), torch.Tensor) and one.layout == torch.strided and one.device.type == "cpu":
            storages[one.untyped_storage().data_ptr()] = one.untyped_storage().nbytes()
    return sum(storages.values())


async def asleep_in_mid_window(
    engine: TransformersEngine, decoder: Paused, *, keeps_weights: bool
) -> "asyncio.Task[Window]":
    """A window of which some tokens are sampled."""
    generating = asyncio.create_task(engine.generate(a_request("a", max_new_tokens=20)))
    await decoder.paused()
    sleeping = asyncio.create_task(engine.sleep(keeps_weights=keeps_weights))
    await all_that_can_happen()
    decoder.may_go_on.set()
    await sleeping
    return generating


@on_both_paths
@pytest.mark.parametrize("keeps_weights", [True, False])
async def test_a_window_goes_on_after_the_sleep_as_if_the_new_weights_had_seen_it_from_the_start(
    config: PreTrainedConfig, keeps_weights: bool
) -> None:
    old, new = a_model(config), a_model(config, seed=1)
    decoder = Paused(a_decoder(config))
    request = a_request("a", max_new_tokens=20)

    async with an_engine(config, old, decoder=decoder) as engine:
        generating = await asleep_in_mid_window(engine, decoder, keeps_weights=keeps_weights)
        waiting = asyncio.create_task(engine.generate(a_request("b", max_new_tokens=3)))
        await all_that_can_happen()
        assert engine.is_asleep
        assert not generating.done()
        await engine.update_weights(an_update(new, 7))
        window, later = await generating, await waiting
        assert not engine.is_asleep

    num_old = window.version_spans[0].num_tokens
    assert window.version_spans == (VersionSpan(0, num_old), VersionSpan(7, 20 - num_old))
    by_old, by_new = (expected_logprobs(model, request, window) for model in (old, new))
    expected = torch.cat([by_old[:num_old], by_new[num_old:]])
    torch.testing.assert_close(torch.tensor(window.logprobs).double(), expected, atol=TOLERANCE, rtol=0)
    assert later.version_spans == (VersionSpan(7, 3),)


@pytest.mark.parametrize("name", LARGE)
async def test_an_engine_that_sleeps_without_its_weights_frees_them(name: str) -> None:
    config = LARGE[name]
    model = a_model(config)
    size_of_model = sum(parameter.numel() * 4 for parameter in model.parameters())

    async with an_engine(config, model) as engine:
        del model
        await engine.sleep(keeps_weights=True)
        with_weights = live_bytes()
        await engine.update_weights(an_update(a_model(config), 1))
        await engine.sleep(keeps_weights=False)
        # The thread that loaded the weights lets go of them a moment after it has answered.
        await until(lambda: with_weights - live_bytes() > 0.9 * size_of_model, "the weights are freed")


async def test_the_kv_caches_of_running_windows_are_freed() -> None:
    config = LARGE["fast"]
    decoder = Paused(a_decoder(config))
    prompt = tokens([1] * 100)

    async with an_engine(config, a_model(config), decoder=decoder) as engine:
        generating = asyncio.create_task(engine.generate(a_request("a", prompt_tokens=prompt, max_new_tokens=20)))
        await decoder.paused()
        busy = live_bytes()
        decoder.may_go_on.set()
        await engine.sleep(keeps_weights=True)
        size_of_cache = 2 * 2 * 256 * 4 * 100  # layers, keys and values, width, bytes, tokens
        await until(lambda: busy - live_bytes() > size_of_cache, "the caches are freed")
        generating.cancel()


async def test_where_no_window_mixes_weights_the_sleep_waits_for_those_that_run() -> None:
    config = FAST["qwen2, tied"]
    decoder = Paused(a_decoder(config))

    async with an_engine(config, a_model(config), decoder=decoder, policy=UpdatePolicy(in_flight=False)) as engine:
        generating = await asleep_in_mid_window(engine, decoder, keeps_weights=False)
        window = await generating

    assert window.version_spans == (VersionSpan(0, 20),)


async def test_an_engine_that_sleeps_may_be_let_sleep_again() -> None:
    config = FAST["qwen2, tied"]
    model = a_model(config)

    async with an_engine(config, model) as engine:
        await engine.sleep(keeps_weights=False)
        await engine.sleep(keeps_weights=True)
        assert engine.is_asleep
        await engine.update_weights(an_update(model, 1))
        assert len((await engine.generate(a_request("a", max_new_tokens=5))).tokens) == 5


async def test_a_window_in_the_queue_of_an_engine_that_sleeps_can_be_cut() -> None:
    config = FAST["qwen2, tied"]

    async with an_engine(config, a_model(config)) as engine:
        await engine.sleep(keeps_weights=True)
        waiting = asyncio.create_task(engine.generate(a_request("a", max_new_tokens=5)))
        await all_that_can_happen()
        await engine.cut("a", 0)

        assert len((await waiting).tokens) == 0


async def test_the_weights_that_are_trained_do_not_wake_the_engine_and_newer_ones_do() -> None:
    engine = FakeEngine(policy_version=-1)
    weights = ServedWeights(engine)
    await weights.take(an_update_of(4), PROBE)

    await weights.sleep(WeightIdentity(0, 4), keeps_weights=False)
    assert (engine.is_asleep, engine.keeps_weights, weights.status()["is_asleep"]) == (True, False, True)
    with pytest.raises(StaleWeightsError, match="the engine sleeps while"):
        await weights.take(an_update_of(4), PROBE)
    await weights.take(an_update_of(5), PROBE)
    assert not engine.is_asleep


async def test_a_restarted_learner_wakes_the_engine_with_its_checkpoints_weights() -> None:
    engine = FakeEngine(policy_version=-1)
    weights = ServedWeights(engine)
    await weights.take(an_update_of(4), PROBE)
    await weights.sleep(WeightIdentity(0, 4), keeps_weights=True)

    await weights.take(an_update_of(2, incarnation=1), PROBE)

    assert (engine.is_asleep, engine.policy_version) == (False, 2)


async def test_a_learner_that_was_replaced_lets_nobody_sleep() -> None:
    engine = FakeEngine(policy_version=-1)
    weights = ServedWeights(engine)
    await weights.take(an_update_of(2, incarnation=1), PROBE)

    with pytest.raises(StaleWeightsError, match="is older than"):
        await weights.sleep(WeightIdentity(0, 9), keeps_weights=True)
    assert not engine.is_asleep


async def test_no_window_is_posted_after_the_sleep_before_the_probe_has_proved_the_engine_awake() -> None:
    streams = memory_streams()
    engine = FakeEngine(policy_version=-1)
    weights = ServedWeights(engine)
    service = service_on(streams.window_requests, engine, weights)
    await weights.take(an_update_of(4), PROBE)
    await weights.sleep(WeightIdentity(0, 4), keeps_weights=False)

    async with running(service):
        engine.may_answer.clear()
        taking = asyncio.create_task(weights.take(an_update_of(5), PROBE))
        await ask(streams, a_request("a", min_policy_version=5))
        await engine.asked.get()
        await all_that_can_happen()
        assert (await streams.inbox.length(), service.status()["proof"]) == (0, "unproved")
        engine.may_answer.set()
        (window,) = await inbox_records(streams, Window, 1)
        await taking

    assert window.rollout_id == "a"
