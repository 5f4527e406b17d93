"""`algorithm.recipe` sets defaults by a name; every key may still be chosen."""

from pathlib import Path

import pytest

from services.local.launch import description
from tests.local.test_processes import plan
from tppo.config import Config, ConfigError, dump, load
from tppo.config.recipes import RECIPES

BASE = '[model]\npath = "m"\n[data]\ntrain_files = ["t.jsonl"]\n'
PAPER = BASE + '[algorithm]\nrecipe = "paper"\n'


def load_text(folder: Path, text: str, *overrides: str) -> Config:
    path = folder / "run.toml"
    path.write_text(text)
    return load(path, overrides)


def test_the_papers_recipe_is_the_papers_setting(tmp_path: Path) -> None:
    config = load_text(tmp_path, PAPER)
    run, algorithm = config.run, config.algorithm

    assert run.mode == "lockstep"
    assert (run.rollouts_per_step, config.data.samples_per_prompt) == (512 * 16, 16)
    assert (run.window_length, run.max_response_length) == (8 * 1024, 24 * 1024)
    assert (config.actor.lr, config.critic.lr) == (1e-6, 2e-6)
    assert config.actor.lr_decay == config.critic.lr_decay == "constant"
    assert config.actor.ppo_mini_batches == config.critic.ppo_mini_batches == 16  # of 512 responses each
    assert (algorithm.lam, algorithm.lam_alpha, algorithm.lam_floor) == ("length_adaptive", 0.05, 0.95)
    assert (algorithm.lm_loss_weight, algorithm.lm_score_threshold) == (0.1, 0.0)  # of scores that are 1 or -1
    assert (algorithm.clip_ratio_low, algorithm.clip_ratio_high, algorithm.clip_ratio_c) == (0.2, 0.28, 10.0)
    assert (algorithm.gamma, algorithm.boundary, algorithm.num_ignored_tail_tokens) == (1.0, "hold", 8)
    assert config.importance_cap is None


def test_a_key_that_is_chosen_in_the_file_or_behind_it_keeps_its_value(tmp_path: Path) -> None:
    config = load_text(tmp_path, PAPER + "[actor]\nlr = 5e-6\n", "run.rollouts_per_step=64", "critic.lr=1e-5")

    assert (config.actor.lr, config.critic.lr, config.run.rollouts_per_step) == (5e-6, 1e-5, 64)
    assert config.actor.ppo_mini_batches == 16


def test_the_recipe_may_be_chosen_on_the_command_line_and_taken_away_there(tmp_path: Path) -> None:
    assert load_text(tmp_path, BASE, "algorithm.recipe=paper").run.window_length == 8192
    assert load_text(tmp_path, PAPER, "algorithm.recipe=").run.window_length == 256


def test_the_written_configuration_names_the_recipe_and_all_that_it_set(tmp_path: Path) -> None:
    config = load_text(tmp_path, PAPER, "actor.lr=3e-6")
    written = tmp_path / "config.toml"
    written.write_text(dump(config))

    assert load(written) == config
    assert 'recipe = "paper"' in written.read_text()
    for key, _, _ in RECIPES["paper"]:
        assert f"{key.partition('.')[2]} = " in written.read_text()


def test_a_dry_run_names_each_key_of_the_recipe_with_its_source(tmp_path: Path) -> None:
    lines = [
        line
        for line in description(plan(tmp_path, algorithm={"recipe": "paper"}, actor={"lr": 3e-6}))
        if line.startswith("# recipe paper: ")
    ]

    assert len(lines) == len(RECIPES["paper"])
    assert "# recipe paper: run.window_length = 8192 (paper)" in lines
    assert "# recipe paper: algorithm.lam_alpha = 0.05 (VAPO)" in lines
    assert "# recipe paper: actor.lr = 3e-06 (paper, chosen instead of 1e-06)" in lines


def test_another_system_has_no_recipe_of_the_paper(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_text(tmp_path, PAPER, "run.algorithm=ppo")

    assert str(caught.value).partition(": ")[2] == (
        "algorithm.recipe = 'paper' with run.algorithm = 'ppo': the recipe is T-PPO's; expected run.algorithm = "
        "'tppo', or no such key"
    )
