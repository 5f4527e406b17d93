"""New weights in the real vLLM: both moments for them, both fates of the KV caches, and what must not be believed."""

import asyncio
from typing import Any

import pytest
import torch

from services.generation.update_policy import UpdatePolicy
from tests.support.waiting import until
from tests.vllm.served import (
    NUM_SLOTS,
    TOLERANCE,
    VOCABULARY,
    ServedModel,
    a_model,
    a_request,
    an_update,
    expected_logprobs,
    logprobs_on_old_cache,
    worst_difference,
)
from tppo.rollout import VersionSpan, tokens
from tppo.weights import WeightUpdate

LONG = 600  # tokens of a window that still runs when the update comes, two seconds or so
KEPT = UpdatePolicy(recompute_cache=False)
BETWEEN = UpdatePolicy(in_flight=False)
LONG_PROMPT = tokens(index % VOCABULARY for index in range(300))


async def test_in_flight_windows_go_on_as_if_the_new_weights_had_seen_them_from_the_start(
    vllm: ServedModel, engine: Any
) -> None:
    old, new = a_model(1), a_model(2)
    first = await vllm.send(old)
    requests = [
        a_request("short", max_new_tokens=LONG),
        a_request("long", prompt_tokens=LONG_PROMPT, max_new_tokens=LONG),
        a_request("cold", temperature=0.7, max_new_tokens=LONG),
    ]

    running = [asyncio.create_task(engine.generate(request)) for request in requests]
    await vllm.until_sampling()
    second = await vllm.send(new)
    windows = await asyncio.gather(*running)

    for request, window in zip(requests, windows, strict=True):
        num_old = window.version_spans[0].num_tokens
        assert window.version_spans == (VersionSpan(first, num_old), VersionSpan(second, LONG - num_old))
        by_old, by_new = (expected_logprobs(model, request, window) for model in (old, new))
        assert worst_difference(window.logprobs, torch.cat([by_old[:num_old], by_new[num_old:]])) < TOLERANCE


async def test_kept_kv_caches_stay_those_of_the_old_weights_until_the_window_ends(
    vllm: ServedModel, engine: Any
) -> None:
    """What has not begun, and every later window, sees the new weights alone, its shared prefix included."""
    old, new = a_model(3), a_model(4)
    await vllm.send(old)
    engine.policy = KEPT
    request = a_request("begun", prompt_tokens=LONG_PROMPT, max_new_tokens=LONG)

    running = asyncio.create_task(engine.generate(request))
    await vllm.until_sampling()
    late = [a_request(f"late{index}", prompt_tokens=LONG_PROMPT, seed=index) for index in range(NUM_SLOTS)]
    unbegun = [asyncio.create_task(engine.generate(one)) for one in late]  # some are in vLLM when the update comes
    await asyncio.sleep(0)
    version = await vllm.send(new)
    window = await running
    num_old = window.version_spans[0].num_tokens

    assert window.version_spans[1:] == (VersionSpan(version, LONG - num_old, cache_version=version - 1),)
    expected = logprobs_on_old_cache(old, new, request, window, num_old=num_old)
    assert 0 < num_old < LONG
    assert worst_difference(window.logprobs[num_old:], expected) < TOLERANCE
    assert worst_difference(window.logprobs[:num_old], expected_logprobs(old, request, window)[:num_old]) < TOLERANCE
    for other_request, task in zip(late, unbegun, strict=True):
        other = await task
        if other.version_spans == (VersionSpan(version, 24),):
            assert worst_difference(other.logprobs, expected_logprobs(new, other_request, other)) < TOLERANCE
    after = await engine.generate(again := a_request("after", prompt_tokens=LONG_PROMPT))
    assert worst_difference(after.logprobs, expected_logprobs(new, again, after)) < TOLERANCE


async def test_between_windows_no_window_mixes_weights_and_none_starts_while_they_wait(
    vllm: ServedModel, engine: Any
) -> None:
    old, new = a_model(5), a_model(6)
    first = await vllm.send(old)
    engine.policy = BETWEEN
    begun = [a_request(f"begun{index}", max_new_tokens=300 + index) for index in range(8)]

    running = [asyncio.create_task(engine.generate(request)) for request in begun]
    await vllm.until_sampling()
    sending = asyncio.create_task(vllm.send(new))
    await until(lambda: engine.holds_windows_back, "the update waits")
    late = asyncio.create_task(engine.generate(a_request("late")))
    second = await sending

    for request, task in zip(begun, running, strict=True):
        window = await task
        assert window.version_spans == (VersionSpan(first, request.max_new_tokens),)
        assert worst_difference(window.logprobs, expected_logprobs(old, request, window)) < TOLERANCE
    window = await late
    assert window.version_spans == (VersionSpan(second, 24),)
    assert worst_difference(window.logprobs, expected_logprobs(new, a_request("late"), window)) < TOLERANCE


async def test_an_update_that_nobody_awaits_any_more_is_not_applied_and_holds_up_no_window(
    vllm: ServedModel, engine: Any
) -> None:
    model = a_model(7)
    version = await vllm.send(model)
    engine.policy = BETWEEN

    running = asyncio.create_task(engine.generate(a_request(max_new_tokens=LONG)))
    await vllm.until_sampling()
    sending = asyncio.create_task(engine.update_weights(an_update(a_model(8), version + 1)))
    await until(lambda: engine.holds_windows_back, "the update waits")
    sending.cancel()
    beside = await engine.generate(request := a_request("beside", max_new_tokens=4))

    assert beside.version_spans == (VersionSpan(version, 4),)
    assert worst_difference(beside.logprobs, expected_logprobs(model, request, beside)) < TOLERANCE
    assert (await running).version_spans == (VersionSpan(version, LONG),)


@pytest.mark.parametrize("damage", ["missing", "unknown", "of another shape", "not finite"])
async def test_weights_that_do_not_fit_are_refused_and_nothing_changes(
    vllm: ServedModel, engine: Any, damage: str
) -> None:
    model = a_model(9)
    version = await vllm.send(model)
    tensors = dict(an_update(a_model(10), version + 1).tensors)
    name = "model.layers.1.mlp.up_proj.weight"
    if damage == "missing":
        del tensors[name]
    elif damage == "unknown":
        tensors["lm_head.bias"] = torch.zeros(VOCABULARY)
    elif damage == "of another shape":
        tensors[name] = tensors[name][:-1]
    else:
        tensors[name][3, 5] = torch.inf

    with pytest.raises(ValueError, match=f"1 {damage}"):
        await engine.update_weights(WeightUpdate(version + 1, incarnation=3, digest="", tensors=tensors))

    window = await engine.generate(a_request())
    assert window.version_spans == (VersionSpan(version, 24),)
    assert worst_difference(window.logprobs, expected_logprobs(model, a_request(), window)) < TOLERANCE


async def test_the_head_that_shares_the_embeddings_weights_follows_them(vllm: ServedModel, engine: Any) -> None:
    """vLLM's reload skips it, and a CPU keeps a packed copy of it."""
    old, new = a_model(11), a_model(11)
    with torch.no_grad():
        new.model.embed_tokens.weight.add_(torch.randn_like(new.model.embed_tokens.weight))
    await vllm.send(old)
    await vllm.send(new)

    window = await engine.generate(a_request())

    assert worst_difference(window.logprobs, expected_logprobs(old, a_request(), window)) > 1.0
    assert worst_difference(window.logprobs, expected_logprobs(new, a_request(), window)) < TOLERANCE


async def test_numbers_that_are_not_finite_leave_no_trace_in_later_weights(vllm: ServedModel, engine: Any) -> None:
    """In the blocks of the KV cache that other rows get next."""
    model, broken = a_model(12), a_model(12)
    with torch.no_grad():
        broken.model.layers[0].self_attn.v_proj.weight.fill_(3e38)
    await vllm.send(broken)
    requests = [a_request(f"r{index}", prompt_tokens=LONG_PROMPT, seed=index) for index in range(NUM_SLOTS)]
    failed = await asyncio.gather(*(engine.generate(request) for request in requests), return_exceptions=True)
    assert {str(error) for error in failed} == {"the model's logits are not finite numbers"}

    await vllm.send(model)
    windows = await vllm.windows([a_request(f"s{index}", seed=index) for index in range(NUM_SLOTS)])

    for index, window in enumerate(windows):
        expected = expected_logprobs(model, a_request(seed=index), window)
        assert worst_difference(window.logprobs, expected) < TOLERANCE
