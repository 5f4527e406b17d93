"""vLLM sleeps while the learner trains on its device; on a CPU its KV caches lose their memory."""

import asyncio
from typing import Any

import torch

from services.generation.vllm_engine.engine_arguments import KV_CACHE_BYTES_ON_CPU
from services.generation.vllm_engine.slots import Slots
from tests.vllm.served import TOLERANCE, ServedModel, a_model, a_request, an_update, expected_logprobs, worst_difference
from tppo.rollout import VersionSpan

LONG = 600  # tokens of a window that still runs when the sleep comes


async def test_windows_are_held_while_the_engine_sleeps_and_go_on_under_the_next_weights(
    vllm: ServedModel, engine: Any
) -> None:
    old, new = a_model(1), a_model(2)
    first = await vllm.send(old)
    request = a_request("long", max_new_tokens=LONG)
    running = asyncio.create_task(engine.generate(request))
    await vllm.until_sampling()

    await engine.sleep(keeps_weights=True)
    waiting = asyncio.create_task(engine.generate(a_request("later", max_new_tokens=3)))
    await engine.sleep(keeps_weights=False)
    assert engine.is_asleep
    assert engine._memory.num_free >= KV_CACHE_BYTES_ON_CPU[0]
    second = await vllm.send(new)
    window, later = await running, await waiting

    assert not engine.is_asleep
    num_old = window.version_spans[0].num_tokens
    assert window.version_spans == (VersionSpan(first, num_old), VersionSpan(second, LONG - num_old))
    by_old, by_new = (expected_logprobs(model, request, window) for model in (old, new))
    expected = torch.cat([by_old[:num_old], by_new[num_old:]])
    assert worst_difference(window.logprobs, expected) < TOLERANCE
    assert later.version_spans == (VersionSpan(second, 3),)


async def test_windows_after_a_sleep_agree_with_a_forward_pass(vllm: ServedModel, engine: Any) -> None:
    model = a_model(3)
    await engine.sleep(keeps_weights=False)
    await engine.update_weights(an_update(model, engine.policy_version + 1))

    requests = [a_request(str(seed), seed=seed) for seed in range(4)]
    for request, window in zip(requests, await vllm.windows(requests), strict=True):
        assert worst_difference(window.logprobs, expected_logprobs(model, request, window)) < TOLERANCE


class Calls:
    """An engine's core that notes what it is asked to do."""

    def __init__(self) -> None:
        self.made: list[str] = []

    async def sleep(self, *, level: int, mode: str) -> None:
        self.made.append(f"sleep {level} {mode}")

    async def wake_up(self, *, tags: list[str]) -> None:
        self.made.append(f"wake {' '.join(tags)}")


async def slept(*, keeps_weights: bool) -> list[str]:
    from services.generation.vllm_engine.engine_memory import EngineMemory  # vLLM warns where it is imported

    core: Any = Calls()
    memory, slots = EngineMemory(core, on_cpu=False), Slots(2)
    slots.open()
    await memory.free(slots, keeps_weights=keeps_weights, waits=True)
    assert (memory.is_asleep, slots.is_open) == (True, False)
    await memory.restore_weights()
    core.made.append("weights are loaded")
    await memory.restore_kv_cache()
    return list(core.made)


async def test_on_a_gpu_the_weights_are_loaded_before_the_scheduler_wakes_with_its_kv_cache() -> None:
    woken = ["wake weights", "weights are loaded", "wake kv_cache"]

    assert await slept(keeps_weights=False) == ["sleep 2 keep", *woken]  # level 2: what there was is lost
    assert await slept(keeps_weights=True) == ["sleep 1 keep", *woken]
