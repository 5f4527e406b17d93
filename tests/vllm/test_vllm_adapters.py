"""LoRA in vLLM: one adapter on the body of the model's folder, replaced by every update."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
import torch
from torch import Tensor
from transformers import PreTrainedModel

from services.generation.build import build_vllm_engine
from services.generation.update_policy import UpdatePolicy
from tests.support.waiting import until
from tests.vllm.served import TOLERANCE, a_config, a_model, a_request, expected_logprobs, worst_difference
from tppo.config import Config
from tppo.models.adapters import Lora, adapted_layers, adapter_shapes, body_digest, merged_weight
from tppo.rollout import VersionSpan
from tppo.weights import WeightUpdate
from tppo.weights.manifest import AdapterFacts

RANK, SCALING = 3, 2.0


class Adapted:
    """An engine on a body, and adapters to send to it."""

    def __init__(self, config: Config, digest: str) -> None:
        self.digest = digest
        self.engine: Any = build_vllm_engine(config)

    def update(self, version: int, *, digest: str = "") -> tuple[WeightUpdate, PreTrainedModel]:
        """Adapters that matter, and the model that is the sum with their body."""
        torch.manual_seed(version)
        summed: Any = a_model(0)
        lora = Lora(RANK, RANK * SCALING)
        layers = adapted_layers(summed, lora)
        tensors: dict[str, Tensor] = {
            name: 0.2 * torch.randn(shape) for name, shape in adapter_shapes(layers, RANK).items()
        }
        for layer in layers:
            weight = summed.get_submodule(layer.name).weight
            weight.data = merged_weight(weight.data, tensors, layer, scaling=SCALING)
        facts = AdapterFacts(digest or self.digest, SCALING)
        return WeightUpdate(
            version, incarnation=3, digest=f"sha256:{version:x}", tensors=tensors, adapter=facts
        ), summed


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def adapted(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Adapted]:
    folder = tmp_path_factory.mktemp("adapted")
    config = a_config(folder)
    actor = config.actor.model_copy(update={"lora_rank": RANK, "lora_alpha": RANK * SCALING})
    a_model(0).save_pretrained(folder)
    digest = await asyncio.to_thread(body_digest, folder)
    one = Adapted(config.model_copy(update={"actor": actor}), digest)
    yield one
    await one.engine.close()


async def test_each_version_of_an_adapter_is_sampled_from(adapted: Adapted) -> None:
    for version in range(2):
        update, model = adapted.update(version)
        await adapted.engine.update_weights(update)
        request = a_request(f"r{version}")

        window = await adapted.engine.generate(request)

        assert window.version_spans == (VersionSpan(version, len(window.tokens)),)
        assert worst_difference(window.logprobs, expected_logprobs(model, request, window)) < TOLERANCE


async def test_a_window_in_flight_goes_on_with_the_new_adapter_as_if_it_had_always_been_there(adapted: Adapted) -> None:
    adapted.engine.policy = UpdatePolicy(in_flight=True, recompute_cache=True)
    begins = adapted.engine.policy_version + 1
    update, old = adapted.update(begins)
    await adapted.engine.update_weights(update)
    request = a_request("long", max_new_tokens=400)
    running = asyncio.create_task(adapted.engine.generate(request, lambda *_: None))
    await until(lambda: any(one.num_tokens for one in adapted.engine.statistics().running), "a token of the window")
    update, new = adapted.update(begins + 1)

    await adapted.engine.update_weights(update)

    window = await running
    before, after = window.version_spans
    assert (before.policy_version, after.policy_version) == (begins, begins + 1)
    assert before.num_tokens > 0
    assert after.num_tokens > 0
    for model, part in ((old, slice(before.num_tokens)), (new, slice(before.num_tokens, None))):
        expected = expected_logprobs(model, request, window)[part]
        assert worst_difference(window.logprobs[part], expected) < TOLERANCE


async def test_adapters_of_another_body_are_refused_and_nothing_changes(adapted: Adapted) -> None:
    version = adapted.engine.policy_version
    update, _ = adapted.update(version + 1, digest=f"sha256:{'0' * 64}")

    with pytest.raises(ValueError, match="holds another body than that of the learner's adapters"):
        await adapted.engine.update_weights(update)

    assert adapted.engine.policy_version == version
