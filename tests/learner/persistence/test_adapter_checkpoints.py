"""Runs with LoRA: what checkpoints hold, what a resume refuses, what generators are sent, and what is exported."""

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForTokenClassification

from learner.commands.export import main as export
from learner.models.weights.adapters import AdapterWeights
from learner.networks import load_models
from learner.persistence.definition import with_values
from learner.persistence.network_folders import read_adapters
from services.generation.build import update_from
from tests.learner.fake_services import FakeTransport
from tests.learner.laboratory import STEPS, ArchivedStreams, Laboratory, killed_at, replay, to_the_end
from tppo.config import ConfigError
from tppo.models.adapters import body_digest
from tppo.weights.manifest import AdapterFacts

RANK = 4
IDS = torch.tensor([[3, 4, 5, 6, 7]])


def a_laboratory(folder: Path, mode: str = "lockstep", algorithm: str = "tppo", **values: Any) -> Laboratory:
    laboratory = Laboratory(folder, mode, algorithm)
    adapters = {f"{name}.lora_rank": RANK for name in ("actor", "critic")}
    laboratory.config = with_values(laboratory.config, adapters | {"critic.share_body": True} | values)
    return laboratory


async def to_its_end(laboratory: Laboratory) -> FakeTransport:
    streams, transport = ArchivedStreams(), FakeTransport()
    await to_the_end(laboratory.learner("run", streams, transport), streams, transport)
    return transport


def newest(laboratory: Laboratory, run: str = "run") -> Path:
    return laboratory.folder / run / "checkpoints" / f"global_step_{STEPS}"


def kept(laboratory: Laboratory, run: str) -> Mapping[str, Tensor]:
    return {
        f"{part}.{name}": tensor
        for part in ("actor", "critic")
        for name, tensor in read_adapters(newest(laboratory, run) / part).items()
    }


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> tuple[Laboratory, FakeTransport]:
    laboratory = a_laboratory(tmp_path_factory.mktemp("run"))
    return laboratory, asyncio.run(to_its_end(laboratory))


@pytest.mark.parametrize(("mode", "algorithm"), [("streaming", "tppo"), ("lockstep", "ppo-ewma")])
async def test_a_killed_learner_ends_with_the_adapters_of_an_undisturbed_replay(
    tmp_path: Path, mode: str, algorithm: str
) -> None:
    laboratory = a_laboratory(tmp_path, mode, algorithm)
    streams, transport = ArchivedStreams(), FakeTransport()

    await killed_at(3, laboratory.learner("run", streams, transport), streams, transport)
    await to_the_end(laboratory.learner("run", streams.reopened(), transport), streams.reopened(), transport)
    await replay(laboratory, "replay", streams)

    weights, replayed = [await asyncio.to_thread(kept, laboratory, run) for run in ("run", "replay")]
    assert all(torch.equal(weights[name], replayed[name]) for name in weights)
    assert any(tensor.any() for name, tensor in weights.items() if "lora_B" in name)


async def test_checkpoints_and_generators_are_given_adapters_alone(
    ended: tuple[Laboratory, FakeTransport],
) -> None:
    laboratory, transport = ended
    body = laboratory.config.model.path
    digest = await asyncio.to_thread(body_digest, body)

    sent = transport.snapshots[-1]
    assert sent.adapter == AdapterFacts(digest, laboratory.config.actor.lora_alpha / RANK)
    assert all(".lora_" in name for name in sent.tensors)
    assert 2 * sent.num_bytes < sum(tensor.nbytes for tensor in load_file(body / "model.safetensors").values())
    for part, heads in {
        "actor": set(),
        "critic": {"base_model.model.score.weight", "base_model.model.score.bias"},
    }.items():
        folder = newest(laboratory) / part
        assert {path.name for path in folder.glob("*.safetensors")} == {"adapter_model.safetensors"}
        assert json.loads((folder / "body.json").read_text()) == {"path": str(body), "digest": digest}
        names = load_file(folder / "adapter_model.safetensors").keys()
        assert {name for name in names if ".lora_" not in name} == heads
    moments = load_file(newest(laboratory) / "trainer.safetensors")
    assert max(tensor.numel() for tensor in moments.values()) <= RANK * 32


def refused(laboratory: Laboratory, **values: Any) -> str:
    with pytest.raises(ConfigError) as raised:
        load_models(with_values(laboratory.config, values), newest(laboratory))
    return str(raised.value)


def test_a_resume_with_another_body_is_refused(ended: tuple[Laboratory, FakeTransport], tmp_path: Path) -> None:
    laboratory, _ = ended
    base = laboratory.config.model.path
    for name in ("config.json", "generation_config.json"):
        (tmp_path / name).write_bytes((base / name).read_bytes())
    tensors = load_file(base / "model.safetensors")
    next(iter(tensors.values())).view(-1)[0] += 1
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})

    complaint = refused(laboratory, **{"model.path": str(tmp_path)})

    assert complaint.startswith(
        f"{tmp_path} holds another body than that on which the adapters in {newest(laboratory)}"
    )
    assert complaint.endswith("expected that one, or another run.name")


def test_a_resume_from_a_copy_of_the_body_elsewhere_goes_on(
    ended: tuple[Laboratory, FakeTransport], tmp_path: Path
) -> None:
    laboratory, _ = ended
    for file in laboratory.config.model.path.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())

    policy, _ = load_models(with_values(laboratory.config, {"model.path": str(tmp_path)}), newest(laboratory))

    assert isinstance(policy.weights, AdapterWeights)
    assert all(
        torch.equal(one, kept(laboratory, "run")[f"actor.{name}"]) for name, one in policy.weights.tensors().items()
    )


def test_adapters_and_whole_models_are_not_taken_for_each_other(
    ended: tuple[Laboratory, FakeTransport], tmp_path: Path
) -> None:
    laboratory, _ = ended
    values: dict[str, Any] = {"actor.lora_rank": 0, "critic.lora_rank": 0, "critic.share_body": False}
    assert refused(laboratory, **values).startswith("actor.lora_rank = 0: ")

    whole = a_laboratory(tmp_path, **values)
    asyncio.run(to_its_end(whole))
    complaint = refused(whole, **{"actor.lora_rank": 4})
    assert complaint.startswith("actor.lora_rank = 4: ")
    assert "holds a whole model; expected 0, or another run.name" in complaint


@pytest.mark.parametrize("what", ["policy", "value_model"])
def test_an_export_is_an_ordinary_folder_of_the_sum(
    ended: tuple[Laboratory, FakeTransport], tmp_path: Path, what: str
) -> None:
    laboratory, _ = ended
    model = load_models(laboratory.config, newest(laboratory))[what == "value_model"]

    export([str(laboratory.folder / "run"), "--what", what, "--output", str(tmp_path / "whole")])

    loader: Any = AutoModelForCausalLM if what == "policy" else AutoModelForTokenClassification
    loaded = loader.from_pretrained(tmp_path / "whole")
    model.network.set_attn_implementation("sdpa")
    with torch.no_grad():
        assert torch.allclose(loaded(IDS).logits, model.network(IDS).logits, atol=1e-5)
    assert not [path.name for path in (tmp_path / "whole").iterdir() if "adapter" in path.name or "body" in path.name]
    assert json.loads((tmp_path / "whole" / "config.json").read_text())["dtype"] == "float32"


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")  # of peft with transformers
def test_an_adapter_is_exported_as_peft_loads_it(ended: tuple[Laboratory, FakeTransport], tmp_path: Path) -> None:
    laboratory, _ = ended
    policy, _ = load_models(laboratory.config, newest(laboratory))

    export([str(laboratory.folder / "run"), "--adapter", "--output", str(tmp_path / "adapter")])

    base: Any = AutoModelForCausalLM.from_pretrained(laboratory.config.model.path)
    loaded: Any = PeftModel.from_pretrained(base, str(tmp_path / "adapter"))
    policy.network.set_attn_implementation("sdpa")
    with torch.no_grad():
        assert torch.allclose(loaded(IDS).logits, policy.network(IDS).logits, atol=1e-5)
    assert {path.name for path in (tmp_path / "adapter").iterdir()} == {
        "adapter_model.safetensors",
        "adapter_config.json",
    }


def test_a_generator_serves_a_checkpoint_as_the_sum_with_its_body(ended: tuple[Laboratory, FakeTransport]) -> None:
    laboratory, _ = ended
    folder = newest(laboratory) / "actor"
    policy, _ = load_models(laboratory.config, newest(laboratory))
    config = laboratory.config.model_copy(update={"model": laboratory.config.model.model_copy(update={"path": folder})})

    tensors = dict(update_from(config, 3).tensors)

    build: Any = AutoModelForCausalLM.from_config
    plain = build(AutoConfig.from_pretrained(folder))
    plain.load_state_dict(tensors, strict=False)
    policy.network.set_attn_implementation("sdpa")
    with torch.no_grad():
        assert torch.allclose(plain(IDS).logits, policy.network(IDS).logits, atol=1e-5)
