"""LoRA in the generator: adapters on a body of its own folder, against transformers and peft computing with both."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor
from transformers import PreTrainedConfig

from services.generation.transformers_engine.engine import TransformersEngine
from services.generation.update_policy import UpdatePolicy
from services.generation.weights.adapter_body import AdapterBody
from services.generation.weights.served_weights import ServedWeights
from services.generation.weights.weight_proof import DisprovedWeightsError
from tests.generation.tiny_models import CAPACITY, CPU, FAST, GENERAL, a_decoder, a_model, probe_of
from tppo.models.adapters import body_digest
from tppo.models.probe import TOLERANCES, difference
from tppo.weights import WeightUpdate
from tppo.weights.manifest import AdapterFacts

RANK, SCALING = 3, 2.0
FAMILIES: dict[str, PreTrainedConfig] = {
    **{name: FAST[name] for name in ("qwen2, tied", "llama with biases and scaled rope")},
    "gemma2 with sliding windows": GENERAL["gemma2 with sliding windows"],
}
# Nats of the worst token: in float32 the engine serves the sum, in bfloat16 body and adapters, as the learner does.
APART = {torch.float32: 4e-5, torch.bfloat16: 0.4}
# Of the probe's rows; in bfloat16 the longest one is held to what every start is, as rounding adds up along a row.
NUM_HELD = {torch.float32: 3, torch.bfloat16: 2}


def adapted(folder: Path, config: PreTrainedConfig, dtype: torch.dtype, *, seed: int) -> Any:
    """The model in the folder, in this type, with adapters in float32 that matter."""
    model: Any = a_model(config)
    if not (folder / "config.json").is_file():
        model.save_pretrained(folder)
    model = model.to(dtype)
    inject_adapter_in_model(
        LoraConfig(r=RANK, lora_alpha=int(RANK * SCALING), target_modules=["q_proj", "v_proj", "o_proj", "up_proj"]),
        model,
    )
    torch.manual_seed(seed)
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            parameter.data = 0.3 * torch.randn(parameter.shape)
    return model.eval()


def adapters_of(model: Any) -> dict[str, Tensor]:
    own = dict(model.named_parameters())
    return {name.replace(".default.", "."): one.detach() for name, one in own.items() if ".lora_" in name}


def an_update(folder: Path, model: Any, policy_version: int = 0, *, digest: str = "") -> WeightUpdate:
    return WeightUpdate(
        policy_version,
        incarnation=0,
        digest=f"sha256:{policy_version:x}",
        tensors=adapters_of(model),
        adapter=AdapterFacts(digest or body_digest(folder), SCALING),
    )


def an_engine(folder: Path, config: PreTrainedConfig, dtype: torch.dtype = torch.float32) -> TransformersEngine:
    return TransformersEngine(
        a_decoder(config, dtype=dtype),
        num_slots=4,
        capacity=CAPACITY,
        policy=UpdatePolicy(),
        device=CPU,
        body=AdapterBody(folder, dtype),
    )


@pytest.mark.parametrize("dtype", APART, ids=str)
@pytest.mark.parametrize("family", FAMILIES)
async def test_an_engine_samples_from_adapters_and_body_in_every_version(
    tmp_path: Path, family: str, dtype: torch.dtype
) -> None:
    config = FAMILIES[family]
    engine = an_engine(tmp_path, config, dtype)
    try:
        for version in range(2):
            model = adapted(tmp_path, config, dtype, seed=version)
            await engine.update_weights(await asyncio.to_thread(an_update, tmp_path, model, version))
            probe = probe_of(model)
            answer = await engine.probe(probe.rows, temperature=probe.temperature)

            found, expected = [*map(torch.tensor, answer.logprobs)], [*map(torch.tensor, probe.logprobs)]
            assert answer.policy_version == version
            assert len(found) == 3
            assert difference(found[: NUM_HELD[dtype]], expected[: NUM_HELD[dtype]]).worst < APART[dtype]
            apart, limit = difference(found, expected), TOLERANCES[dtype]
            assert (apart.worst <= limit.worst, apart.mean <= limit.mean) == (True, True)
    finally:
        await engine.close()


async def test_an_engine_that_does_not_apply_the_adapters_serves_nothing(tmp_path: Path) -> None:
    class WithoutAdapters(AdapterBody):
        def whole(self, update: WeightUpdate) -> Any:
            tensors = {name: 0 * one for name, one in update.tensors.items()}
            return super().whole(WeightUpdate(update.policy_version, 0, "", tensors, adapter=update.adapter))

    config = FAST["qwen2, tied"]
    model = adapted(tmp_path, config, torch.float32, seed=0)
    engine = an_engine(tmp_path, config)
    engine._body = WithoutAdapters(tmp_path, torch.float32)
    weights = ServedWeights(engine, TOLERANCES[torch.float32])
    try:
        with pytest.raises(DisprovedWeightsError, match="differs from the learner"):
            await weights.take(await asyncio.to_thread(an_update, tmp_path, model), probe_of(model))
        assert weights.is_disproved
    finally:
        await engine.close()


async def test_adapters_of_another_body_are_refused_and_the_weights_in_use_stay(tmp_path: Path) -> None:
    config = FAST["qwen2, tied"]
    model = adapted(tmp_path, config, torch.float32, seed=0)
    engine = an_engine(tmp_path, config)
    try:
        await engine.update_weights(await asyncio.to_thread(an_update, tmp_path, model))
        other = an_update(tmp_path, model, 1, digest=f"sha256:{'0' * 64}")
        with pytest.raises(ValueError, match=r"holds another body than that of the learner's adapters, .* same files"):
            await engine.update_weights(other)
        assert engine.policy_version == 0
    finally:
        await engine.close()


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda tensors, name: tensors.pop(name), "1 missing"),
        (lambda tensors, name: tensors.update({f"{name}.more": torch.zeros(1)}), "1 unknown"),
        (lambda tensors, name: tensors.update({name: torch.zeros(2, 5)}), "1 of another shape"),
        (lambda tensors, name: tensors[name].fill_(torch.nan), "1 not finite"),
    ],
    ids=["missing", "unknown", "shape", "nan"],
)
def test_adapters_that_do_not_fit_the_body_are_refused(tmp_path: Path, change: Any, complaint: str) -> None:
    model = adapted(tmp_path, FAST["qwen2, tied"], torch.float32, seed=0)
    update = an_update(tmp_path, model)
    tensors = {name: one.clone() for name, one in update.tensors.items()}
    change(tensors, "model.layers.0.self_attn.q_proj.lora_B.weight")

    with pytest.raises(ValueError, match=f"weights do not fit the model: {complaint}"):
        AdapterBody(tmp_path, torch.float32).whole(
            WeightUpdate(0, incarnation=0, digest="", tensors=tensors, adapter=update.adapter)
        )
