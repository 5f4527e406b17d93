"""The run that `tppo pretrain-critic` makes of a configuration."""

from pathlib import Path
from typing import Any

import pytest

from services.local.pretrain.__main__ import main
from services.local.pretrain.pretraining import Pretraining, pretraining_config
from services.local.pretrain.stopping import StopRule
from tests.support.processes import QUICKSTART
from tppo.config import Config, ConfigError, dump, load


def a_config(*overrides: str) -> Config:
    return load(QUICKSTART, list(overrides))


def test_the_value_model_alone_trains_on_whole_responses() -> None:
    config = pretraining_config(a_config(), max_steps=60)

    assert (config.run.name, config.run.total_training_steps) == ("quickstart-critic", 60)
    assert config.critic.warmup_steps == 60  # in these steps the policy stays as it is
    assert config.run.window_length == config.run.max_response_length == 2048
    assert config.critic.lr_decay == "constant"
    assert (config.data.val_files, config.evaluation.val_before_train) == ([], False)
    assert config.critic.lr == a_config().critic.lr


@pytest.mark.parametrize("system", ["ppo", "vapo", "ppo-ewma", "geppo"])
def test_the_targets_are_monte_carlo_returns_whatever_the_system(system: str) -> None:
    other = a_config(f"run.algorithm={system}", "algorithm.num_reused_batches=2" if system == "geppo" else "run.seed=1")

    assert pretraining_config(other, max_steps=60).run.algorithm == "tppo"


def test_its_processes_can_read_its_file(tmp_path: Path) -> None:
    config = pretraining_config(a_config(), max_steps=60)
    (tmp_path / "config.toml").write_text(dump(config))

    assert load(tmp_path / "config.toml") == config


def test_an_output_that_is_there_already_is_refused_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "critic").mkdir()
    (tmp_path / "critic" / "config.json").touch()
    pretraining = Pretraining(
        a_config(f"run.directory={tmp_path}"),
        StopRule(),
        source=QUICKSTART,
        max_steps=5,
        output=str(tmp_path / "critic"),
    )

    with pytest.raises(ConfigError, match="is there already; expected --output with a new or an empty folder"):
        pretraining.run(started_at=0.0)


@pytest.mark.parametrize(
    "arguments",
    [["--max-steps", "0"], ["--max-steps", "x"], ["--explained-variance", "1.5"], ["--least-rise", "-1"]],
)
def test_numbers_that_make_no_sense_are_refused(arguments: list[str], capsys: pytest.CaptureFixture[Any]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([str(QUICKSTART), *arguments])

    assert caught.value.code == 2
    assert "expected a " in capsys.readouterr().err
