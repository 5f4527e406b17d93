"""What `tppo learner --check` refuses, before a model is loaded."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from learner.persistence.definition import FILE, Definition, fingerprints, with_values
from learner.preflight import check, request_line
from tests.support.damage import DAMAGES, damage
from tppo.__main__ import main
from tppo.config import Config, ConfigError
from tppo.models.tokenizer import load_tokenizer, stop_token_ids
from tppo.run_folder.checkpoints import CheckpointFolder
from tppo.run_folder.paths import RunPaths

END = "</s>"
ROW = {"data_source": "sums", "prompt": "1+1=", "reward_model": {"ground_truth": "2"}}


def a_model(folder: Path) -> None:
    """Its config.json, a tokenizer of bytes that appends the end-of-sequence token, and a file without a tensor."""
    alphabet = [END, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE(vocab={token: number for number, token in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.TemplateProcessing(single=f"$A {END}", special_tokens=[(END, 0)])
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END).save_pretrained(folder)  # type: ignore[no-untyped-call]
    (folder / "config.json").write_text(
        json.dumps({"model_type": "llama", "vocab_size": len(alphabet), "max_position_embeddings": 4096})
    )
    save_file({}, folder / "model.safetensors")


def config_with(folder: Path, *rows: dict[str, Any], data: dict[str, Any] | None = None, **reward: Any) -> Config:
    a_model(folder)
    path = folder / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    tables = {"model": {"path": folder}, "data": {"train_files": [path], **(data or {})}, "reward": reward}
    return Config.model_validate(tables | {"run": {"max_prompt_length": 16}})


def test_rows_with_an_answer_and_a_reward_function_pass(tmp_path: Path) -> None:
    config = config_with(tmp_path, ROW, functions={"sums": "exact"})

    assert check(config).notes == []


def test_the_first_row_of_each_reward_function_is_found_in_training_and_evaluation_data(tmp_path: Path) -> None:
    evaluated = tmp_path / "val.jsonl"
    evaluated.write_text(json.dumps({**ROW, "data_source": "products", "prompt": "2*3="}))
    rows = [
        {**ROW, "prompt": f"{n}=", "data_source": name} for n, name in enumerate(("sums", "more sums", "rest", "sums"))
    ]
    functions = {"sums": "math", "more sums": "math", "products": "exact.py:f"}
    config = config_with(
        tmp_path, *rows, functions=functions, default_function="exact", data={"val_files": [evaluated]}
    )

    lines = map(json.loads, map(request_line, check(config).first_rows))

    assert {line["data_source"]: (line["prompt"], line["response"]) for line in lines} == {
        "sums": ("0=", "2"),
        "rest": ("2=", "2"),
        "products": ("2*3=", "2"),
    }


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (
            {"num_attention_heads": 6, "hidden_size": 48},
            "llama has 6 attention heads, which are to be dealt to 4 processes",
        ),
        (
            {"model_type": "mamba"},
            "mamba passes tokens on by other ways than attention, or attends by code of its own",
        ),
        (
            {"model_type": "lfm2", "num_hidden_layers": 2, "layer_types": ["conv", "full_attention"]},
            "lfm2 has layers of conv, which need tokens that other processes have",
        ),
    ],
    ids=["heads", "recurrent", "convolutions"],
)
def test_a_model_whose_tokens_cannot_be_divided_is_refused(tmp_path: Path, model: dict[str, Any], why: str) -> None:
    config = config_with(tmp_path, ROW, functions={"sums": "exact"})
    learner = {"num_processes": 4, "sequence_parallel_size": 4, "device": "cpu"}
    config = Config.model_validate(config.model_dump() | {"learner": learner})
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | model))

    with pytest.raises(ConfigError) as refused:
        check(config)

    assert str(refused.value) == (
        f"learner.sequence_parallel_size = 4 with model.path = '{tmp_path}': {why}; expected 1, or another model"
    )


@pytest.mark.parametrize(("is_on", "expected"), [("true", ":4096:8"), ("false", None)])
def test_the_workspace_of_cublas_is_fixed_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_on: str, expected: str | None
) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "of the shell")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    path = tmp_path / "config.toml"
    path.write_text(f'[model]\npath = "none"\n[data]\ntrain_files = ["t"]\n[learner]\ndeterministic = {is_on}\n')

    assert main(["learner", str(path), "--check"]) == 2, "there is no such model"

    assert os.environ.get("CUBLAS_WORKSPACE_CONFIG") == expected


def test_a_row_without_an_answer_is_named(tmp_path: Path) -> None:
    config = config_with(tmp_path, ROW, {**ROW, "reward_model": {}}, functions={"sums": "exact"})

    with pytest.raises(ConfigError, match=r"train\.jsonl, line 2: no answer; expected reward_model\.ground_truth"):
        check(config)


def test_a_model_without_its_weights_is_refused(tmp_path: Path) -> None:
    config = config_with(tmp_path, ROW, functions={"sums": "exact"})
    (tmp_path / "model.safetensors").unlink()

    with pytest.raises(ConfigError) as caught:
        check(config)

    names = "no model.safetensors and no model.safetensors.index.json"
    assert str(caught.value) == f"model.path = '{tmp_path}': {names} in {tmp_path}; expected the model's weights"


def test_compiled_blocks_are_refused_without_a_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler -O2")
    config = config_with(tmp_path, ROW, functions={"sums": "exact"})
    learner = config.learner.model_copy(update={"compile": True, "device": "cpu"})

    with pytest.raises(ConfigError) as caught:
        check(config.model_copy(update={"learner": learner}))

    message = "learner.compile = true: no C++ compiler no-such-compiler on PATH; expected it, or false"
    assert str(caught.value) == message


def test_a_resume_needs_no_weights_but_its_checkpoint_s(tmp_path: Path) -> None:
    config = config_with(tmp_path, ROW, functions={"sums": "exact"})
    (tmp_path / "model.safetensors").unlink()

    assert check(config, resume=True).notes == []


def test_prompts_that_are_too_long_are_refused_or_noted(tmp_path: Path) -> None:
    long = {**ROW, "prompt": "1+1+1+1+1+1+1+1+1="}
    refusing = config_with(tmp_path, ROW, long, default_function="exact")
    skipping = config_with(tmp_path, ROW, long, default_function="exact", data={"overlong_prompts": "skip"})
    sentence = (
        "data.train_files: 1 of 2 prompts is longer than run.max_prompt_length = 16: the longest has 18 tokens, "
        f"the first is {tmp_path}/train.jsonl, line 2 (18 tokens)"
    )

    assert check(skipping).notes == [f"{sentence}; skipped"]
    with pytest.raises(ConfigError, match=r"line 2 \(18 tokens\); expected a larger run\.max_prompt_length"):
        check(refusing)


def test_a_missing_chat_template_is_named_without_a_model_to_load(tmp_path: Path) -> None:
    chat = {**ROW, "prompt": [{"role": "user", "content": "1+1="}]}

    with pytest.raises(ConfigError, match=r"train\.jsonl, line 2: .*, and the tokenizer in model.path has no chat"):
        check(config_with(tmp_path, ROW, chat, default_function="exact"))


def test_a_damaged_tokenizer_is_named(tmp_path: Path) -> None:
    config = config_with(tmp_path, ROW, default_function="exact")
    (tmp_path / "tokenizer.json").write_text("{}")

    with pytest.raises(ConfigError, match=r"^model\.path = '.*': .*; expected a tokenizer's files"):
        check(config)


def test_a_bad_row_ends_the_process_with_exit_code_2_and_its_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config_with(tmp_path, ROW, {**ROW, "prompt": "1+1=\ud83d"})
    file = tmp_path / "run.toml"
    file.write_text('[model]\npath = "."\n[data]\ntrain_files = ["train.jsonl"]\n')

    assert main(["learner", "--check", str(file)]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"tppo learner: {tmp_path}/train.jsonl, line 2: prompt holds '\\ud83d' at position 4, "
        "half of a surrogate pair; expected text that UTF-8 can hold"
    )


def test_a_data_source_without_a_reward_function_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data_source 'sums' has no reward function"):
        check(config_with(tmp_path, ROW, functions={"products": "exact"}))


def test_a_default_function_scores_every_data_source(tmp_path: Path) -> None:
    config = config_with(tmp_path, ROW, default_function="exact")

    assert check(config).notes == []


def test_a_short_warm_up_passes_with_a_warning_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = config_with(tmp_path, ROW, default_function="exact")
    short = config.model_copy(update={"critic": config.critic.model_copy(update={"warmup_steps": 3})})

    check(config)
    assert caplog.messages == []
    check(short)

    assert caplog.messages == list(short.warnings)
    assert caplog.messages[0].startswith(
        "critic.warmup_steps = 3: a response of run.max_response_length = 2048 needs 8"
    )


def test_an_evaluated_row_without_its_worked_solution_is_named(tmp_path: Path) -> None:
    config = config_with(tmp_path, ROW, functions={"sums": "exact"})
    data = config.data.model_copy(update={"val_files": config.data.train_files})
    evaluation = config.evaluation.model_copy(update={"solution_key": "solution"})

    with pytest.raises(ConfigError, match=r"train\.jsonl, line 1: extra_info\.solution is None; expected a worked"):
        check(config.model_copy(update={"data": data, "evaluation": evaluation}))


def a_run_to_resume(folder: Path, *rows: dict[str, Any]) -> Config:
    """With a checkpoint of its third step."""
    config = with_values(
        config_with(folder, *rows, functions={"sums": "exact"}), {"run.directory": str(folder / "runs")}
    )
    checkpoints = CheckpointFolder(RunPaths(config.run.path).checkpoints)
    checkpoints.of_step(3).mkdir(parents=True)
    definition = Definition.of(config, fingerprints(config))
    (checkpoints.of_step(3) / FILE).write_text(json.dumps(definition.as_json()))
    checkpoints.latest.write_text(checkpoints.of_step(3).name)
    return config


@pytest.mark.parametrize(
    "rows",
    [
        [{**ROW, "prompt": "1+2="}],
        [{**ROW, "reward_model": {"ground_truth": "3"}}],
        [{**ROW, "extra_info": {"level": 2}}],
        [ROW, ROW],
    ],
)
def test_a_resume_with_other_rows_is_refused(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    config = a_run_to_resume(tmp_path, ROW)
    config.data.train_files[0].write_text("".join(json.dumps(row) + "\n" for row in rows))

    with pytest.raises(
        ConfigError, match=r"^data\.train_files: other rows than those that the run began with; expected"
    ):
        check(config, resume=True)


def test_a_resume_with_rows_in_another_order_is_refused(tmp_path: Path) -> None:
    other = {**ROW, "prompt": "1+2="}
    config = a_run_to_resume(tmp_path, ROW, other)
    config.data.train_files[0].write_text("".join(json.dumps(row) + "\n" for row in (other, ROW)))

    with pytest.raises(ConfigError, match=r"^data\.train_files: other rows"):
        check(config, resume=True)


def test_a_resume_with_another_tokenizer_is_refused(tmp_path: Path) -> None:
    config = a_run_to_resume(tmp_path, ROW)
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}")

    with pytest.raises(ConfigError, match=r"^model\.path: other tokenizer than"):
        check(config, resume=True)


def test_a_run_of_an_earlier_release_is_resumed_in_the_type_that_it_began_with(tmp_path: Path) -> None:
    config = a_run_to_resume(tmp_path, ROW)
    (definition,) = config.run.path.glob("checkpoints/*/run.json")
    text = json.loads(definition.read_text())
    text["fixed"] = {"model.dtype": "bfloat16"}
    definition.write_text(json.dumps(text))

    with pytest.raises(ConfigError, match=r"^learner\.compute_dtype = 'float32': the run began with 'bfloat16'"):
        check(config, resume=True)
    check(with_values(config, {"learner.compute_dtype": "bfloat16"}), resume=True)


def test_a_resume_with_the_same_rows_in_a_file_elsewhere_passes(tmp_path: Path) -> None:
    config = a_run_to_resume(tmp_path, ROW)
    moved = config.data.train_files[0].rename(tmp_path / "moved.jsonl")

    assert check(with_values(config, {"data.train_files": [str(moved)]}), resume=True).notes == []


def test_the_check_loads_neither_torch_nor_transformers() -> None:
    program = "import sys, learner.preflight; print(sorted({'torch', 'transformers'} & sys.modules.keys()))"

    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout

    assert printed.strip() == "[]"


@pytest.mark.parametrize("kind", DAMAGES)
def test_beside_a_damaged_definition_the_checkpoint_before_says_which_run_it_is(tmp_path: Path, kind: str) -> None:
    config = a_run_to_resume(tmp_path, ROW)
    folder = CheckpointFolder(RunPaths(config.run.path).checkpoints)
    shutil.copytree(folder.of_step(3), folder.of_step(5))
    folder.latest.write_text(folder.of_step(5).name)
    damage(folder.of_step(5) / FILE, kind)

    assert check(config, resume=True).notes == []
    with pytest.raises(ConfigError, match=r"^run\.seed = 7: the run began with 0"):
        check(with_values(config, {"run.seed": 7}), resume=True)


@pytest.mark.parametrize("section", ["learner", "critic", "generation"])
def test_a_device_that_is_not_there_is_refused_before_rows_are_read(tmp_path: Path, section: str) -> None:
    config = config_with(tmp_path, {"not": "a row"})
    placed = getattr(config, section).model_copy(update={"device": "cuda:999"})

    with pytest.raises(ConfigError, match=rf"^{section}\.device = 'cuda:999': PyTorch .* expected 'auto'"):
        check(config.model_copy(update={section: placed}))


def test_responses_beyond_what_a_model_can_look_at_are_refused(tmp_path: Path) -> None:
    config = config_with(tmp_path, ROW, default_function="exact")
    run = config.run.model_copy(update={"max_response_length": 4081})
    critic = tmp_path / "critic"
    critic.mkdir()
    (critic / "config.json").write_text(json.dumps({"model_type": "llama", "max_position_embeddings": 1024}))
    short_critic = config.model.model_copy(update={"critic_path": critic})

    with pytest.raises(ConfigError) as caught:
        check(config.model_copy(update={"run": run}))
    assert str(caught.value) == (
        "run.max_prompt_length = 16 and run.max_response_length = 4081 make 4097 tokens, and the model at model.path = "
        f"'{tmp_path}' can look at 4096 (max_position_embeddings); expected at most that many"
    )
    with pytest.raises(ConfigError, match=r"the model at model\.critic_path = '.*' can look at 1024 \("):
        check(config.model_copy(update={"model": short_critic}))


@pytest.mark.parametrize(
    "kind", ["empty", "torn", "a number", "another type", "null", "not UTF-8", "garbage", "too deep"]
)
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "generation_config.json"])
def test_a_damaged_file_of_the_model_is_one_sentence(tmp_path: Path, name: str, kind: str) -> None:
    a_model(tmp_path)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": 0}')
    damage(tmp_path / name, kind)

    with pytest.raises(ConfigError, match=rf"^model\.path = '{tmp_path}': .*; expected") as refusal:
        stop_token_ids(tmp_path, load_tokenizer(tmp_path))

    assert "\n" not in str(refusal.value)


def test_stop_tokens_are_those_of_the_generation_config_the_config_and_the_tokenizer(tmp_path: Path) -> None:
    a_model(tmp_path)  # whose tokenizer ends with 0
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"eos_token_id": 7}))
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [9, 7, 11]}))

    assert stop_token_ids(tmp_path, load_tokenizer(tmp_path)) == (0, 7, 9, 11)


def test_a_family_s_default_is_no_stop_token(tmp_path: Path) -> None:
    a_model(tmp_path)  # whose config.json says nothing, where transformers' configuration of Llama says 2

    assert stop_token_ids(tmp_path, load_tokenizer(tmp_path)) == (0,)


def test_responses_beyond_the_border_of_a_rotary_embedding_are_refused(tmp_path: Path) -> None:
    config = config_with(tmp_path, ROW, default_function="exact")
    of_model = json.loads((tmp_path / "config.json").read_text())
    rope = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 1e4}
    (tmp_path / "config.json").write_text(json.dumps(of_model | {"rope_parameters": rope}))
    run = config.run.model_copy(update={"max_response_length": 4081})

    assert check(config).notes == []
    with pytest.raises(ConfigError) as caught:
        check(config.model_copy(update={"run": run}))
    assert str(caught.value) == (
        "run.max_prompt_length = 16 and run.max_response_length = 4081 make 4097 tokens, and the model at model.path = "
        f"'{tmp_path}' has rope_type 'dynamic', which turns all tokens of a row otherwise once it is longer than 4096, "
        "so that their log-probabilities change after they were sampled; expected at most 4096"
    )
