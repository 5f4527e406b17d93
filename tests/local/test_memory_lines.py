"""What `--dry-run` prints of memory, by hand for a model of few weights."""

from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaConfig, LlamaForCausalLM

from services.local import memory
from services.local.memory import Share, Trained, learner_share, memory_lines, stored_parameters
from tppo.config.schema import Config

PARAMETERS = 2 * 1000 * 64 + 4 * 64 * 64 + 3 * 64 * 128 + 3 * 64
"""Embedding and head, one block's attention and MLP, three norms."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    sizes: dict[str, Any] = {"vocab_size": 1000, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1}
    LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=4)).save_pretrained(tmp_path, max_shard_size="300KB")
    return tmp_path


def a_config(folder: Path, **sections: dict[str, Any]) -> Config:
    table: dict[str, Any] = {"model": {"path": folder}, "data": {"train_files": [folder]}}
    return Config.model_validate(table | {"learner": {"device": "cpu"}} | sections)


def shares(config: Config) -> list[Share]:
    return [*memory._learner(config), *memory._generators(config)]


def test_parameters_are_counted_in_the_headers_of_all_shards(folder: Path) -> None:
    assert len(list(folder.glob("*.safetensors"))) > 1
    assert stored_parameters(folder) == PARAMETERS


def test_the_parts_of_the_learner_are_those_of_the_formulas(folder: Path) -> None:
    learner, _ = shares(a_config(folder, actor={"max_tokens_per_microbatch": 100}))

    body = PARAMETERS - 64_000
    assert learner.parts == {
        "policy's weights": 4 * PARAMETERS,
        "policy's moments": 8 * PARAMETERS,
        "value model's weights": 4 * body,
        "value model's moments": 8 * body,
        "gradients": 4 * body,  # the value model's update takes more: its micro-batch has 4096 tokens
        "activations": 4096 * (4 * (4 * 128 + 3 * 64 + 2 * 64) + 24 * 64),
        "process": 400 * 2**20,
    }


def test_masters_and_their_cast_take_six_bytes_a_parameter(folder: Path) -> None:
    learner, generator = shares(a_config(folder, learner={"device": "cpu", "compute_dtype": "bfloat16"}))

    assert learner.parts["policy's weights"] == 6 * PARAMETERS
    assert generator.parts["weights"] == 2 * PARAMETERS


def test_a_generator_holds_the_keys_and_values_of_all_its_slots(folder: Path) -> None:
    lengths = {"max_prompt_length": 100, "max_response_length": 400}
    _, generator = shares(a_config(folder, run=lengths, generation={"num_slots": 8}))

    assert generator.parts["KV cache"] == 2 * 1 * 64 * 4 * 8 * 500


def test_models_that_take_turns_count_as_the_larger_of_them() -> None:
    policy = Trained("policy", "cuda", {"weights": 10}, {"gradients": 5, "logits": 1})
    value_model = Trained("value model", "cuda", {"weights": 8}, {"gradients": 9})

    together = learner_share([policy, value_model], take_turns=False)
    in_turns = learner_share([policy, value_model], take_turns=True)

    assert together.parts == {"policy's weights": 10, "value model's weights": 8, "gradients": 9}
    assert in_turns.parts == {"value model's weights": 8, "gradients": 9}


def test_each_process_has_a_line_and_each_device_a_sum(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "device_memory", lambda device: 2**30)

    lines = list(memory_lines(a_config(folder, generation={"replicas": 2})))

    assert [line.partition(":")[0] for line in lines[:-1]] == [
        "learner on cpu",
        "generation-0 on cpu",
        "generation-1 on cpu",
    ]
    assert lines[-1].endswith(" of the 1.0 GiB of cpu: more than there is")


def test_a_folder_without_safetensors_is_said_to_be_unknown(tmp_path: Path) -> None:
    assert list(memory_lines(a_config(tmp_path))) == [f"unknown, as {tmp_path} holds no safetensors files"]
