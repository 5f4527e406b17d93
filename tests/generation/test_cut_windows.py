"""A window that is cut ends with what it has, and the rest of it is what the whole would have been."""

import asyncio
from dataclasses import replace

import pytest
from transformers import PreTrainedConfig

from services.generation.transformers_engine.engine import TransformersEngine
from services.generation.update_policy import UpdatePolicy
from tests.generation.tiny_models import (
    FAST,
    GENERAL,
    TOLERANCE,
    Paused,
    a_decoder,
    a_model,
    a_request,
    an_engine,
    an_update,
    weights_wait,
)
from tppo.rollout import FinishReason, VersionSpan, Window, WindowRequest, tokens

QWEN2 = FAST["qwen2, tied"]
NUM_SAMPLED = Paused.PAUSE_AT + 1  # the cut arrives inside that step, whose token still counts


async def cut_in_the_pause(engine: TransformersEngine, decoder: Paused, *requests: WindowRequest) -> list[Window]:
    """The windows; the first request's is cut while the decoder is paused, the others go on."""
    generating = [asyncio.create_task(engine.generate(request)) for request in requests]
    await decoder.paused()
    await engine.cut(*requests[0].key)
    decoder.may_go_on.set()
    return await asyncio.gather(*generating)


@pytest.mark.parametrize("config", [QWEN2, GENERAL["gpt-neox"]], ids=["fast path", "general"])
async def test_both_parts_of_a_cut_window_are_what_the_whole_window_would_have_been(config: PreTrainedConfig) -> None:
    model, request = a_model(config), a_request(max_new_tokens=20)
    beside = a_request("beside", max_new_tokens=20, seed=7)
    async with an_engine(config, model) as engine:
        whole, untouched = await asyncio.gather(engine.generate(request), engine.generate(beside))
    decoder = Paused(a_decoder(config))

    async with an_engine(config, model, decoder=decoder) as engine:
        part, other = await cut_in_the_pause(engine, decoder, request, beside)
        rest = await engine.generate(
            replace(request, window_index=1, response_tokens=tokens(part.tokens), max_new_tokens=20 - NUM_SAMPLED)
        )

    assert (part.finish_reason, len(part.tokens)) == (FinishReason.CUT, NUM_SAMPLED)
    assert part.version_spans == (VersionSpan(0, NUM_SAMPLED),)
    assert [*part.tokens, *rest.tokens] == list(whole.tokens)
    assert [*part.logprobs, *rest.logprobs] == pytest.approx(list(whole.logprobs), abs=TOLERANCE)
    assert other.tokens == untouched.tokens
    assert (other.finish_reason, rest.finish_reason) == (FinishReason.LENGTH, FinishReason.LENGTH)


async def test_a_window_that_waits_for_a_slot_is_cut_without_a_token() -> None:
    decoder = Paused(a_decoder(QWEN2, num_slots=1))
    first, waiting = a_request("first", max_new_tokens=20), a_request("waiting")

    async with an_engine(QWEN2, a_model(QWEN2), decoder=decoder, num_slots=1) as engine:
        generating = [asyncio.create_task(engine.generate(request)) for request in (first, waiting)]
        await decoder.paused()
        await engine.cut("waiting", 0)
        decoder.may_go_on.set()
        window, whole = await generating[1], await generating[0]

    assert (window.finish_reason, len(window.tokens), window.version_spans) == (FinishReason.CUT, 0, ())
    assert len(whole.tokens) == 20


async def test_a_window_is_cut_before_the_first_weights_and_while_weights_wait() -> None:
    async with an_engine(QWEN2) as engine:
        generating = asyncio.create_task(engine.generate(a_request()))
        await asyncio.sleep(0)
        await engine.cut("r", 0)
        window = await generating

    assert (window.finish_reason, len(window.tokens)) == (FinishReason.CUT, 0)


async def test_a_cut_lets_weights_in_that_wait_for_the_running_windows() -> None:
    decoder = Paused(a_decoder(QWEN2))
    model = a_model(QWEN2)

    async with an_engine(QWEN2, model, decoder=decoder, policy=UpdatePolicy(in_flight=False)) as engine:
        generating = asyncio.create_task(engine.generate(a_request(max_new_tokens=190)))
        await decoder.paused()
        updating = asyncio.create_task(engine.update_weights(an_update(model, policy_version=1)))
        await weights_wait(engine)
        await engine.cut("r", 0)
        decoder.may_go_on.set()
        window = await generating
        await updating

    assert window.version_spans == (VersionSpan(0, NUM_SAMPLED),)


async def test_a_cut_of_a_window_that_is_not_under_way_changes_nothing() -> None:
    async with an_engine(QWEN2, a_model(QWEN2)) as engine:
        await engine.cut("nobody", 0)
        window = await engine.generate(a_request(window_index=1))
        await engine.cut("r", 1)
        again = await engine.generate(a_request(window_index=1))

    assert window.finish_reason is again.finish_reason is FinishReason.LENGTH
    assert len(again.tokens) == 8


async def test_a_slot_of_a_cut_window_is_refilled() -> None:
    decoder = Paused(a_decoder(QWEN2, num_slots=1))
    requests = a_request("first", max_new_tokens=190), a_request("second")

    async with an_engine(QWEN2, a_model(QWEN2), decoder=decoder, num_slots=1) as engine:
        first, second = await cut_in_the_pause(engine, decoder, *requests)

    assert (first.slot, second.slot) == (0, 0)
    assert len(second.tokens) == 8


async def test_the_engine_counts_what_siblings_share_and_how_full_its_cache_is() -> None:
    decoder = Paused(a_decoder(QWEN2))
    prompt = tokens(range(1, 12))
    siblings = [a_request(f"r{number}", prompt_tokens=prompt, max_new_tokens=20, seed=number) for number in range(3)]

    async with an_engine(QWEN2, a_model(QWEN2), decoder=decoder) as engine:
        generating = [asyncio.create_task(engine.generate(request)) for request in siblings]
        await decoder.paused()
        use = engine.statistics().kv_cache_use
        decoder.may_go_on.set()
        await asyncio.gather(*generating)
        statistics = engine.statistics()

    # Of each prompt ten tokens are prefilled, the last one is decoded; all but the first row may take them over.
    assert statistics.num_prefill_tokens + statistics.num_shared_prefill_tokens == 3 * 10
    assert use is not None
    assert use > 0
    assert statistics.kv_cache_use == 0
