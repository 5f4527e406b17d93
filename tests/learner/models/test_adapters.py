"""LoRA: which weights train, in which type, and that a copy stands on the same body."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from learner.models.loading.agreement import plain_attention
from learner.models.loading.loading import load_policy
from learner.models.passes.outputs import Policy, token_logprobs, with_weights
from learner.models.passes.packing import TokenRow, pack, unpack
from learner.models.weights.adapters import AdapterWeights, Body
from learner.networks import load_models
from learner.persistence.network_folders import describe_network
from learner.rollouts.rollout import Rollout
from learner.state import new_trainer
from learner.step.trainer import Trainer
from tests.learner.models.live_bytes import LiveBytes
from tests.learner.tiny_models import a_network, a_step_config, padded_logprobs, some_rows, step, weights_of
from tppo.config import Config, ConfigError
from tppo.models.adapters import AdapterError, Lora, adapted_layers, merged_weight

RANK = 3
IDS = torch.tensor([[3, 4, 5, 6, 7]])


@pytest.fixture(scope="module")
def body(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("body")
    a_network("policy").save_pretrained(folder)
    return folder


def a_lora_config(body: Path, **sections: Any) -> Config:
    lora: dict[str, Any] = {"lora_rank": RANK, "lora_alpha": 6.0, "lr": 1e-2, "lr_decay": "constant"}
    given: dict[str, Any] = {"learner": {"device": "cpu"}, "model": {"path": body}} | sections
    of_models = {name: lora | given.pop(name, {}) for name in ("actor", "critic")}
    of_models["critic"].setdefault("warmup_steps", 0)
    return a_step_config(**given, **of_models)


def a_trainer(config: Config) -> Trainer:
    return new_trainer(config, *load_models(config, None))


def adapter_weights(trainer: Trainer) -> tuple[AdapterWeights, AdapterWeights]:
    policy, value_model = trainer.policy.weights, trainer.value_model.weights
    assert isinstance(policy, AdapterWeights)
    assert isinstance(value_model, AdapterWeights)
    return policy, value_model


def of_body(network: torch.nn.Module) -> Mapping[str, Tensor]:
    return {name: one for name, one in weights_of(network).items() if ".lora_" not in name and "score" not in name}


@torch.no_grad()
def logprobs_of(policy: Policy, rows: Sequence[Rollout]) -> list[Tensor]:
    tokens = [TokenRow((*row.prompt.token_ids, *row.response_tokens), len(row.prompt.token_ids)) for row in rows]
    batches = pack(tokens, max_tokens=1000)
    return unpack(batches, [token_logprobs(policy, batch) for batch in batches])


@pytest.mark.parametrize("compute_dtype", ["float32", "bfloat16"])
def test_only_adapters_and_the_value_head_train_in_float32_and_the_body_stays(body: Path, compute_dtype: str) -> None:
    trainer = a_trainer(a_lora_config(body, learner={"device": "cpu", "compute_dtype": compute_dtype}))
    before = [of_body(network) for network in (trainer.policy.network, trainer.value_model.network)]

    metrics = [step(trainer, some_rows(), policy_version=version) for version in range(2)]

    assert all(of_step["actor/grad_norm"] > 0 and of_step["critic/grad_norm"] > 0 for of_step in metrics)
    assert metrics[0]["actor/weights_changed_fraction"] > 0.4  # B alone, as A has no gradient while B is zero
    models: list[Any] = [trainer.policy, trainer.value_model]
    for model, was in zip(models, before, strict=True):
        assert all(torch.equal(one, was[name]) for name, one in of_body(model.network).items())
        assert {one.dtype for one in of_body(model.network).values()} == {getattr(torch, compute_dtype)}
        assert {one.dtype for one in model.weights.parameters()} == {torch.float32}
    head = [one for name, one in trainer.value_model.weights.masters.items() if "score" in name]
    assert len(head) == 2
    assert all(one.any() for one in head)
    of_moments = {one.data_ptr() for one in trainer.actor.adamw.state}
    assert of_moments == {one.data_ptr() for one in trainer.policy.weights.parameters()}


@pytest.mark.parametrize(("compute_dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 0.15)])
def test_adapters_compute_what_the_sum_with_their_body_does(body: Path, compute_dtype: str, tolerance: float) -> None:
    trainer = a_trainer(a_lora_config(body, learner={"device": "cpu", "compute_dtype": compute_dtype}))
    step(trainer, some_rows())
    weights, _ = adapter_weights(trainer)
    tensors = {name: one for name, (one, _) in weights.computed().items()}
    merged = a_network("policy")
    layers = adapted_layers(merged, weights.adapters.lora)
    for layer in layers:
        own = merged.get_submodule(layer.name).weight
        own.data = merged_weight(own.data, tensors, layer, scaling=2.0)

    rows = some_rows()
    with torch.no_grad(), plain_attention(trainer.policy.network):
        found, expected = padded_logprobs(trainer.policy.network, rows), padded_logprobs(merged, rows)
        base = padded_logprobs(a_network("policy"), rows)

    assert max(float((one - other).abs().max()) for one, other in zip(found, expected, strict=True)) < tolerance
    assert max(float((one - other).abs().max()) for one, other in zip(base, expected, strict=True)) > 0.2


def test_copies_have_adapters_of_their_own_on_the_same_body(body: Path) -> None:
    trainer = a_trainer(a_lora_config(body))
    weights, _ = adapter_weights(trainer)
    kept, average = weights.kept(), weights.frozen_copy()
    rows = some_rows()
    before = logprobs_of(trainer.policy, rows)
    step(trainer, rows)

    trained = logprobs_of(trainer.policy, rows)
    for other in (kept(), average):
        found = logprobs_of(with_weights(trainer.policy, other), rows)
        assert all(torch.equal(one, expected) for one, expected in zip(found, before, strict=True))
        assert other.network is weights.network
        assert not {one.data_ptr() for one in other.parameters()} & {one.data_ptr() for one in weights.parameters()}
        assert not any(one.requires_grad for one in other.parameters())
    found = logprobs_of(trainer.policy, rows)
    assert all(torch.equal(one, expected) for one, expected in zip(found, trained, strict=True))


@pytest.mark.parametrize("algorithm", ["ppo-ewma", "geppo", "ppo"])
def test_every_system_trains_adapters_and_resumes(body: Path, algorithm: str) -> None:
    def a_run() -> Trainer:
        return a_trainer(
            a_lora_config(
                body, run={"algorithm": algorithm, "mode": "lockstep", "window_length": 18, "max_response_length": 18}
            )
        )

    trainer, resumed = a_run(), a_run()
    step(trainer, some_rows())
    for own, other in zip(adapter_weights(resumed), adapter_weights(trainer), strict=True):
        own.load(other.tensors())
    resumed.load_state_dict(deepcopy(trainer.state_dict()))
    for one in (trainer, resumed):
        step(one, some_rows(), policy_version=1)

    for own, other in zip(adapter_weights(resumed), adapter_weights(trainer), strict=True):
        assert all(torch.equal(tensor, other.tensors()[name]) for name, tensor in own.tensors().items())


def test_one_body_for_both_models_trains_as_two_bodies_and_takes_the_memory_of_one(body: Path) -> None:
    trainers, sizes = [], []
    for shares in (False, True):
        live = LiveBytes()
        with live:
            trainers.append(a_trainer(a_lora_config(body, critic={"share_body": shares})))
        sizes.append(live.now)
    apart, shared = trainers

    for trainer in trainers:
        step(trainer, some_rows())

    for own, other in zip(adapter_weights(shared), adapter_weights(apart), strict=True):
        assert all(torch.equal(tensor, other.tensors()[name]) for name, tensor in own.tensors().items())
    of_policy = {one.data_ptr() for one in shared.policy.network.parameters() if not one.requires_grad}
    of_value_model = {one.data_ptr() for one in shared.value_model.network.parameters() if not one.requires_grad}
    assert of_value_model <= of_policy
    num_body = sum(one.numel() for one in of_body(apart.value_model.network).values())
    assert sizes[0] - sizes[1] >= 4 * num_body


def test_adapters_begin_with_the_runs_seed(body: Path) -> None:
    def down(seed: int) -> Tensor:
        trainer = a_trainer(a_lora_config(body, run={"seed": seed, "mode": "lockstep", "max_response_length": 18}))
        return next(iter(trainer.policy.weights.tensors().values())).detach()

    assert torch.equal(down(5), down(5))
    assert not torch.equal(down(5), down(6))


def test_layers_are_chosen_by_the_ends_of_their_names() -> None:
    network = a_network("policy")

    def chosen(targets: Any, exclude: tuple[str, ...] = ()) -> set[str]:
        return {layer.name for layer in adapted_layers(network, Lora(RANK, 6.0, targets, exclude))}

    assert len(chosen("all-linear")) == 14
    assert chosen(["q_proj"]) == {f"model.layers.{index}.self_attn.q_proj" for index in range(2)}
    assert chosen("all-linear", ("mlp.up_proj",)) == {name for name in chosen("all-linear") if "up_proj" not in name}
    for wrong in ("lm_head", "embed_tokens", "proj"):
        with pytest.raises(AdapterError, match=f"target_modules names '{wrong}', which is no linear layer"):
            chosen([wrong])


def test_a_transposed_layer_has_its_adapter_too(tmp_path: Path) -> None:
    """GPT-2 keeps its weights as [inputs, outputs]."""
    sizes: dict[str, Any] = {"n_embd": 16, "n_layer": 1, "n_head": 2, "vocab_size": 20, "n_positions": 32}
    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config(**sizes)).save_pretrained(tmp_path)
    config = a_lora_config(tmp_path)
    policy, _ = load_models(config, None)
    weights = policy.weights
    assert isinstance(weights, AdapterWeights)
    with torch.no_grad():
        for master in weights.parameters():
            master.normal_(std=0.3)
    plain: Any = GPT2LMHeadModel.from_pretrained(tmp_path)
    tensors = {name: one for name, (one, _) in weights.computed().items()}
    for layer in weights.layers:
        own = plain.get_submodule(layer.name).weight
        own.data = merged_weight(own.data, tensors, layer, scaling=2.0)

    with torch.no_grad(), plain_attention(policy.network):
        assert torch.allclose(policy.network(IDS).logits, plain(IDS).logits, atol=1e-5)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")  # of peft with transformers
def test_peft_loads_what_a_checkpoint_holds(body: Path, tmp_path: Path) -> None:
    trainer = a_trainer(a_lora_config(body))
    step(trainer, some_rows())

    trainer.write(trainer.captured(), tmp_path, describe_network)

    model: Any = PeftModel.from_pretrained(a_network("policy"), str(tmp_path / "actor"))
    with torch.no_grad(), plain_attention(trainer.policy.network):
        assert torch.allclose(model(IDS).logits, trainer.policy.network(IDS).logits, atol=1e-5)


def test_layers_that_a_model_lacks_are_refused_with_the_key(body: Path) -> None:
    with pytest.raises(ConfigError, match=r"target_modules names 'w1', which is no linear layer; expected such as"):
        load_models(a_lora_config(body, actor={"target_modules": ["w1"]}), None)


def test_a_policy_without_adapters_sends_every_weight(body: Path) -> None:
    policy = load_policy(str(body))

    assert policy.weights.adapter is None
    assert {*policy.weights.computed()} == {*policy.network.state_dict()} - {"lm_head.weight"} | {"lm_head.weight"}
    assert Body("a", "b").digest == "b"
