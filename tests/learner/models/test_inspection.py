"""What config.json alone says against training a model: one sentence each, without weights."""

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

from learner.models.loading.inspection import require_adaptable, require_trainable, require_whole_weights
from tests.learner.builders import a_config
from tools.tiny_families import tiny_config
from tppo.config import ConfigError
from tppo.config.schema import ModelSection


def a_folder(path: Path, name: str = "qwen2", **changes: Any) -> Path:
    """With the config.json of a tiny model."""
    tiny_config(name).save_pretrained(path)
    file = path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    return path


def refusal(section: ModelSection) -> str:
    with pytest.raises(ConfigError) as caught:
        require_trainable(section)
    return str(caught.value)


@pytest.mark.parametrize("name", ["qwen2", "gemma3_text", "gpt_oss", "falcon_h1", "mamba", "deepseek_v3", "bloom"])
def test_a_model_with_a_body_for_the_value_head_passes(tmp_path: Path, name: str) -> None:
    require_trainable(ModelSection(path=a_folder(tmp_path, name)))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "t5"}, "t5 has an encoder; expected a causal language model"),
        ({"model_type": "bert"}, "bert looks at later tokens too (is_decoder = false in its config.json)"),
        ({"model_type": "vit"}, "has no causal language model of the type vit; expected one, such as that of its text"),
        ({"model_type": "qwen2_5_vl"}, "has no causal language model of the type qwen2_5_vl; expected one, such as"),
        ({"model_type": "of_tomorrow"}, "expected a model's config.json"),
        (
            {"model_type": "qwen2", "quantization_config": {"quant_method": "gptq", "bits": 4}},
            "holds quantized weights (quantization_config: gptq), which cannot be trained",
        ),
    ],
)
def test_what_is_no_causal_language_model_that_can_be_trained_is_refused(
    tmp_path: Path, config: dict[str, Any], message: str
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))

    found = refusal(ModelSection(path=tmp_path))

    assert found.startswith(f"model.path = '{tmp_path}'")
    assert message in found


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"architectures": ["Qwen2ForCausalLM"]},
            "holds a causal language model (Qwen2ForCausalLM), which has no value head; expected a critic, or leave "
            "model.critic_path unset to begin with the policy's body and a head of zeros",
        ),
        (
            {"architectures": ["Qwen2ForTokenClassification"], "id2label": {"0": "a", "1": "b"}},
            "has 2 labels; expected num_labels = 1",
        ),
        (
            {"architectures": ["Qwen2ForTokenClassification"], "id2label": {"0": "a"}, "vocab_size": 99},
            "has a vocabulary of 99 tokens, and model.path = ",
        ),
    ],
)
def test_a_folder_that_is_no_critic_of_this_policy_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    section = ModelSection(path=a_folder(tmp_path / "a"), critic_path=a_folder(tmp_path / "c", **changes))

    found = refusal(section)

    assert found.startswith(f"model.critic_path = '{tmp_path / 'c'}' {message}")


def test_a_critic_with_another_tokenizer_of_the_same_size_is_refused(tmp_path: Path) -> None:
    section = ModelSection(path=a_folder(tmp_path / "a"), critic_path=a_folder(tmp_path / "c", id2label={"0": "a"}))
    for path, vocabulary in ((section.path, {"a": 0, "b": 1}), (section.critic_path, {"b": 0, "a": 1})):
        assert path is not None
        (path / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocabulary}}))

    assert "has a tokenizer.json with another vocabulary than that of model.path" in refusal(section)


@pytest.mark.parametrize("key", ["model.path", "model.critic_path"])
@pytest.mark.parametrize("name", ["pytorch_model.bin", "pytorch_model-00001-of-00002.bin", "consolidated.00.pth"])
def test_weights_that_are_pickled_alone_are_refused(tmp_path: Path, key: str, name: str) -> None:
    folders = {"model.path": a_folder(tmp_path / "a"), "model.critic_path": a_folder(tmp_path / "c")}
    for folder in folders.values():
        save_file({}, folder / "model.safetensors")
    (folders[key] / "model.safetensors").unlink()
    (folders[key] / name).write_bytes(b"\x80\x04.")

    with pytest.raises(ConfigError) as caught:
        require_whole_weights(ModelSection(path=folders["model.path"], critic_path=folders["model.critic_path"]))

    assert str(caught.value) == (
        f"{key} = '{folders[key]}': {folders[key] / name} is a pickle, which may run code; "
        "expected model.safetensors or its shards beside it"
    )


def test_a_loss_for_routers_is_refused_where_the_model_has_none(tmp_path: Path) -> None:
    for name in ("qwen3_moe", "deepseek_v3", "llama"):
        a_folder(tmp_path / name, name)

    require_trainable(ModelSection(path=tmp_path / "qwen3_moe"), router_aux_loss_coef=0.01)
    for name in ("deepseek_v3", "llama"):
        require_trainable(ModelSection(path=tmp_path / name))
        with pytest.raises(ConfigError) as caught:
            require_trainable(ModelSection(path=tmp_path / name), router_aux_loss_coef=0.01)
        assert str(caught.value) == (
            f"actor.router_aux_loss_coef = 0.01: transformers has no load-balancing loss for {name}, the model at "
            f"model.path = '{tmp_path / name}'; expected 0, or a mixture of experts that has one"
        )


def test_layers_that_a_model_lacks_are_refused_by_their_key(tmp_path: Path) -> None:
    model = {"path": a_folder(tmp_path, "qwen2")}
    require_adaptable(a_config(model=model, critic={"lora_rank": 8, "target_modules": ["q_proj"]}))

    with pytest.raises(ConfigError, match=r"^critic\.target_modules names 'w1', which is no linear layer; expected"):
        require_adaptable(a_config(model=model, critic={"lora_rank": 8, "target_modules": ["w1"]}))
    with pytest.raises(ConfigError, match=r"^actor\.exclude_modules names 'lm_head', which is no linear layer"):
        require_adaptable(a_config(model=model, actor={"lora_rank": 8, "exclude_modules": ["lm_head"]}))
    with pytest.raises(ConfigError, match=r"^actor\.exclude_modules names every layer"):
        require_adaptable(
            a_config(model=model, actor={"lora_rank": 8, "target_modules": ["q_proj"], "exclude_modules": ["q_proj"]})
        )


def test_a_missing_peft_is_refused_with_what_installs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("learner.models.loading.inspection.find_spec", lambda _: None)
    config = a_config(model={"path": a_folder(tmp_path, "qwen2")}, actor={"lora_rank": 8})

    with pytest.raises(ConfigError, match=r"^actor\.lora_rank = 8 needs the package peft, .* '\.\[lora\]'`, or 0"):
        require_adaptable(config)


def test_a_folder_of_an_adapter_is_refused_as_a_model(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")

    with pytest.raises(ConfigError, match=r"^model\.path = .* holds an adapter .*; expected a whole model"):
        require_trainable(ModelSection(path=tmp_path))
