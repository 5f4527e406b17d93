"""What `--dry-run` prints of memory, by hand for a model of few weights."""

from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaConfig, LlamaForCausalLM

from services.local.hardware.devices import Machine
from services.local.hardware.memory import (
    Share,
    Shares,
    Trained,
    learner_share,
    memory_lines,
    needed_by_device,
)
from services.local.hardware.model_shapes import shapes_of, stored_parameters
from tppo.config.schema import Config
from tppo.config.sections.devices import Gpus

PARAMETERS = 2 * 1000 * 64 + 4 * 64 * 64 + 3 * 64 * 128 + 3 * 64
"""Embedding and head, one block's attention and MLP, three norms."""
PROBABILITIES = 4 * 2**20
"""Bytes of those that the learner's attention keeps for a block's backward pass, in a small model in float32."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    sizes: dict[str, Any] = {"vocab_size": 1000, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1}
    LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=4)).save_pretrained(tmp_path, max_shard_size="300KB")
    return tmp_path


def a_config(folder: Path, **sections: dict[str, Any]) -> Config:
    table: dict[str, Any] = {"model": {"path": folder}, "data": {"train_files": [folder]}}
    return Config.model_validate(table | {"learner": {"device": "cpu"}} | sections)


def shares(config: Config, gpus: Gpus | None = None) -> list[Share]:
    learners, generators = Shares(config, Machine(gpus)).all()
    return [*learners, *generators]


def test_parameters_are_counted_in_the_headers_of_all_shards(folder: Path) -> None:
    assert len(list(folder.glob("*.safetensors"))) > 1
    assert stored_parameters(folder) == PARAMETERS


def test_the_parts_of_the_learner_are_those_of_the_formulas(folder: Path) -> None:
    lengths = {"max_prompt_length": 50, "max_response_length": 50, "window_length": 50}
    learner, _ = shares(a_config(folder, run=lengths, actor={"max_tokens_per_microbatch": 100}))

    body = PARAMETERS - 64_000
    assert learner.parts == {
        "policy's weights": 4 * PARAMETERS,
        "policy's moments": 8 * PARAMETERS,
        "value model's weights": 4 * body,
        "value model's moments": 8 * body,
        "gradients": 4 * body,  # the value model's update takes more: its micro-batch has 4096 tokens
        "activations": 4096 * (4 * (4 * 128 + 3 * 64 + 2 * 64) + 24 * 64) + PROBABILITIES,
        "process": 400 * 2**20,
    }


def test_masters_and_their_cast_take_six_bytes_a_parameter(folder: Path) -> None:
    learner, generator = shares(a_config(folder, learner={"device": "cpu", "compute_dtype": "bfloat16"}))

    assert learner.parts["policy's weights"] == 6 * PARAMETERS
    assert generator.parts["weights"] == 2 * PARAMETERS


def test_a_generator_holds_the_keys_and_values_of_all_its_slots(folder: Path) -> None:
    lengths = {"max_prompt_length": 100, "max_response_length": 400}
    _, generator = shares(a_config(folder, run=lengths | {"window_length": 50}, generation={"num_slots": 8}))

    assert generator.parts["KV cache"] == 2 * 1 * 64 * 4 * 8 * 500


def test_models_that_take_turns_count_as_the_larger_of_them() -> None:
    policy = Trained("policy", "cuda", {"weights": 10}, {"gradients": 5, "logits": 1})
    value_model = Trained("value model", "cuda", {"weights": 8}, {"gradients": 9})

    together = learner_share([policy, value_model], take_turns=False)
    in_turns = learner_share([policy, value_model], take_turns=True)

    assert together.parts == {"policy's weights": 10, "value model's weights": 8, "gradients": 9}
    assert in_turns.parts == {"value model's weights": 8, "gradients": 9}


def test_each_process_has_a_line_and_each_device_a_sum(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Machine, "memory", lambda machine, device: 2**30)

    lines = list(memory_lines(a_config(folder, generation={"replicas": 2})))

    assert [line.partition(":")[0] for line in lines[:-1]] == [
        "learner on cpu",
        "generation-0 on cpu",
        "generation-1 on cpu",
    ]
    assert lines[-1].endswith(" of the 1.0 GiB of cpu: more than there is")


def test_ranks_that_share_tokens_take_a_part_of_their_activations_and_replicas_more_weights(folder: Path) -> None:
    alone = shares(a_config(folder, learner={"device": "cpu", "num_processes": 4}))[0].parts
    divided = {"device": "cpu", "num_processes": 4, "sequence_parallel_size": 4, "fsdp_size": 2}

    parts = shares(a_config(folder, learner=divided))[0].parts

    of_a_token = 4 * (4 * 128 + 3 * 64 + 2 * 64) + 24 * 64
    assert alone["activations"] == 4096 * of_a_token
    assert parts["activations"] == 1024 * of_a_token
    assert (alone["policy's weights"], parts["policy's weights"]) == (PARAMETERS, 2 * PARAMETERS)


def test_a_folder_without_weights_is_as_large_as_its_configuration_says(folder: Path) -> None:
    policy, value_model = shapes_of(a_config(folder).model)
    for file in folder.glob("*.safetensors"):
        file.unlink()

    assert shapes_of(a_config(folder).model) == (policy, value_model)
    assert policy.num_parameters == PARAMETERS


def test_a_folder_that_transformers_cannot_read_is_said_to_be_unknown(tmp_path: Path) -> None:
    (line,) = memory_lines(a_config(tmp_path))

    assert line.startswith(f"unknown: {tmp_path}: ")


def test_a_micro_batch_is_at_least_as_long_as_the_longest_row(folder: Path) -> None:
    lengths = {"max_prompt_length": 1000, "max_response_length": 9000}
    learner, _ = shares(a_config(folder, run=lengths, critic={"max_tokens_per_microbatch": 100}))

    assert learner.parts["activations"] == 10_000 * (4 * (4 * 128 + 3 * 64 + 2 * 64) + 24 * 64) + PROBABILITIES


def test_placed_processes_are_counted_on_the_gpus_of_the_machine_that_they_are_for(folder: Path) -> None:
    placed = {"policy": "0", "value_model": "1", "generation": "2-3"}
    config = a_config(folder, learner={}, placement=placed, generation={"replicas": 2})

    lines = list(memory_lines(config, Gpus.of("4x80")))

    assert [line.partition(":")[0] for line in lines[:3]] == [
        "learner on GPU 0",
        "learner on GPU 1",
        "generation-0 to generation-1 on GPUs 2-3",
    ]
    assert lines[3].endswith(" of the 80.0 GiB of GPU 0")
    assert lines[5].endswith(" of the 80.0 GiB of GPUs 2-3")


def test_a_process_that_has_the_value_model_alone_takes_what_that_takes(folder: Path) -> None:
    together, *_ = shares(a_config(folder))
    policy, *value_models, _ = shares(a_config(folder, critic={"num_processes": 2}))

    assert [one.process for one in (policy, *value_models)] == ["learner", "learner-1", "learner-2"]
    resident = {name: size for name, size in together.parts.items() if name.endswith(("weights", "moments"))}
    of_policy = {name: size for name, size in resident.items() if name.startswith("policy's")}
    assert policy.parts | of_policy == policy.parts
    assert not resident.keys() & policy.parts.keys() - of_policy.keys()
    for one in value_models:
        halves = {name: -(-size // 2) for name, size in resident.items() if name not in of_policy}
        assert one.parts | halves == one.parts
        assert not of_policy.keys() & one.parts.keys()


def test_processes_of_the_value_model_are_counted_on_its_gpus(folder: Path) -> None:
    placed = {"policy": "0-1", "value_model": "2", "generation": "3"}
    config = a_config(folder, learner={"num_processes": 2}, critic={"num_processes": 1}, placement=placed)

    lines = list(memory_lines(config, Gpus.of("4x80")))

    assert [line.partition(":")[0] for line in lines[:3]] == [
        "learner to learner-1 on GPUs 0-1",
        "learner-2 on GPU 2",
        "generation-0 on GPU 3",
    ]


def test_an_engine_that_sleeps_counts_in_the_other_phase_alone() -> None:
    learner = Share("learner", "GPU 0", {"weights": 10, "activations": 50}, in_other_phase=10)
    generator = Share("generation-0", "GPU 0", {"weights": 5, "KV cache": 30}, in_other_phase=5)

    assert needed_by_device([learner], [generator], sleeps=False) == {"GPU 0": 95}
    assert needed_by_device([learner], [generator], sleeps=True) == {"GPU 0": 65}


@pytest.mark.parametrize(("sleep", "kept"), [("kv_cache", ["weights", "weights that arrive"]), ("weights", [])])
def test_what_a_sleeping_engine_keeps_depends_on_how_it_sleeps(folder: Path, sleep: str, kept: list[str]) -> None:
    run = {"mode": "lockstep"}
    _, generator = shares(
        a_config(folder, run=run, learner={}, placement={"policy": "0", "sleep": sleep}), Gpus.of("1x24")
    )

    assert generator.in_other_phase == sum(generator.parts[part] for part in kept)


def test_vllm_takes_its_share_of_the_device_whatever_the_rows_need(folder: Path) -> None:
    generation = {"engine": "vllm", "vllm": {"tensor_parallel_size": 2, "gpu_memory_utilization": 0.5}}
    placed = {"policy": "0", "generation": "1-2"}
    _, first, second = shares(a_config(folder, learner={}, placement=placed, generation=generation), Gpus.of("3x10"))

    assert first.parts == second.parts
    assert first.parts["weights"] == 4 * PARAMETERS // 2
    assert first.total == 5 * 2**30
