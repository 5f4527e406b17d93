"""A mixture of experts in the real vLLM: the learner sends the experts of a layer joined, as transformers has them."""

from typing import Any

import pytest
import torch
from transformers import Qwen3MoeConfig
from transformers.core_model_loading import revert_weight_conversion

from tests.vllm.served import (
    TOLERANCE,
    VOCABULARY,
    ServedModel,
    a_model,
    a_request,
    expected_logprobs,
    worst_difference,
)
from tppo.rollout import VersionSpan

EXPERTS = Qwen3MoeConfig(  # type: ignore[call-arg]  # head_dim is read, and not declared
    vocab_size=VOCABULARY,
    hidden_size=64,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=32,
    intermediate_size=96,
    moe_intermediate_size=64,
    num_experts=4,
    num_experts_per_tok=2,
    max_position_embeddings=2048,
    initializer_range=0.3,
    tie_word_embeddings=False,
    architectures=["Qwen3MoeForCausalLM"],
    bos_token_id=None,
    eos_token_id=None,
)


async def test_the_experts_of_each_update_are_those_that_sample(tmp_path_factory: pytest.TempPathFactory) -> None:
    served = await ServedModel.start(tmp_path_factory.mktemp("experts"), EXPERTS)
    try:
        for seed in (1, 2):
            model = a_model(seed, EXPERTS)
            version = await served.send(model)
            requests = [a_request(f"r{index}", seed=index, max_new_tokens=40) for index in range(8)]

            windows = await served.windows(requests)

            for request, window in zip(requests, windows, strict=True):
                assert window.version_spans == (VersionSpan(version, 40),)
                assert worst_difference(window.logprobs, expected_logprobs(model, request, window)) < TOLERANCE
    finally:
        await served.engine.close()


def test_experts_are_taken_apart_layer_by_layer() -> None:
    from services.generation.vllm_engine.worker import folder_tensors, joined_model

    model = a_model(1, EXPERTS)
    own = {name: parameter.detach() for name, parameter in model.named_parameters()}
    read = list[str]()

    class File:
        def keys(self) -> list[str]:
            return sorted(own)

        def get_tensor(self, name: str) -> torch.Tensor:
            read.append(name)
            return own[name]

    joined: Any = joined_model(EXPERTS)
    found = dict[str, torch.Tensor]()
    for name, tensor in folder_tensors(File(), joined):
        if ".layers.0." in name:
            assert not any(".layers.1." in one for one in read)
        found[name] = tensor

    expected = revert_weight_conversion(joined, dict(own))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert "model.layers.1.mlp.experts.3.down_proj.weight" in found
