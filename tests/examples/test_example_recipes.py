"""Each recipe passes a dry run for its machine, and says what it takes there."""

import json
import shutil
from pathlib import Path

import pytest

from examples.gsm8k.make_random_model import made_tokenizer
from examples.recipes.memory import HERE, RECIPES, Recipe, table
from services.local.__main__ import main
from tppo.config import load

ROWS = {
    "math-7b": {"data.train_files": "math", "data.val_files": "math"},
    "paper-32b": {"data.train_files": "math_dapo", "evaluation.sets.aime24": "aime"},
}
"""Files of the user's: the data source of their rows, by the key."""

by_name = pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)


def a_model(recipe: Recipe, folder: Path) -> None:
    """The model's true shape, with a tokenizer; no weights."""
    made_tokenizer().save_pretrained(folder)
    shutil.copy(recipe.folder_of_shape / "config.json", folder / "config.json")


def rows(path: Path, data_source: str) -> Path:
    prompt = [{"role": "user", "content": "What is 1 + 1?"}]
    row = {"data_source": data_source, "prompt": prompt, "reward_model": {"ground_truth": "2"}, "extra_info": {}}
    path.write_text(json.dumps(row) + "\n")
    return path


@by_name
@pytest.mark.process
def test_a_recipe_passes_the_dry_run_and_prints_its_memory(
    recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a_model(recipe, tmp_path / "model")
    settings = {"model.path": str(tmp_path / "model"), "run.directory": str(tmp_path / "runs"), "dashboard.port": "0"}
    for key, source in ROWS.get(recipe.name, {}).items():
        settings[key] = f'["{rows(tmp_path / f"{source}.jsonl", source)}"]'
    options = [f"--set={key}={value}" for key, value in settings.items()]

    assert main([str(recipe.path), "--dry-run", "--gpus", recipe.gpus, *options]) == 0

    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("# memory: ")]
    assert any(line.startswith("# memory: learner") for line in lines)
    assert any(line.startswith("# memory: generation-0") for line in lines)
    assert not any("more than there is" in line for line in lines)


@by_name
def test_the_page_shows_the_memory_of_each_recipe(recipe: Recipe) -> None:
    assert "\n".join(table(recipe)) in (HERE / "README.md").read_text()


def test_the_papers_recipe_is_the_papers_setting() -> None:
    config = load(HERE / "paper-32b.toml")

    assert (config.run.rollouts_per_step, config.data.samples_per_prompt) == (512 * 16, 16)
    assert (config.run.window_length, config.run.max_response_length) == (8192, 24576)
    assert (config.actor.lr, config.critic.lr, config.actor.ppo_mini_batches) == (1e-6, 2e-6, 16)
    assert config.reward.functions["math_dapo"] == "2*math - 1"  # 1 for right, -1 for wrong
    assert config.engine_sleep == "weights"
    assert len(config.placement.policy_numbers) == config.learner.num_processes == 64
