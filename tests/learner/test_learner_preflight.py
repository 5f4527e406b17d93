"""What `tppo learner --check` refuses, before a model is loaded."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from learner.preflight import check
from tppo.config import Config, ConfigError

ROW = {"data_source": "sums", "prompt": "1+1=", "reward_model": {"ground_truth": "2"}}


def config_with(folder: Path, *rows: dict[str, Any], **reward: Any) -> Config:
    path = folder / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Config.model_validate({"model": {"path": folder}, "data": {"train_files": [path]}, "reward": reward})


def test_rows_with_an_answer_and_a_reward_function_pass(tmp_path: Path) -> None:
    config = config_with(tmp_path, ROW, functions={"sums": "exact"})

    assert check(config) is None  # type: ignore[func-returns-value]


def test_a_row_without_an_answer_is_named(tmp_path: Path) -> None:
    config = config_with(tmp_path, ROW, {**ROW, "reward_model": {}}, functions={"sums": "exact"})

    with pytest.raises(ConfigError, match=r"train\.jsonl, line 2: no answer; expected reward_model\.ground_truth"):
        check(config)


def test_a_data_source_without_a_reward_function_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data_source 'sums' has no reward function"):
        check(config_with(tmp_path, ROW, functions={"products": "exact"}))


def test_a_default_function_scores_every_data_source(tmp_path: Path) -> None:
    config = config_with(tmp_path, ROW, default_function="exact")

    assert check(config) is None  # type: ignore[func-returns-value]


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


def test_the_check_loads_neither_torch_nor_transformers() -> None:
    program = "import sys, learner.preflight; print(sorted({'torch', 'transformers'} & sys.modules.keys()))"

    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout

    assert printed.strip() == "[]"
