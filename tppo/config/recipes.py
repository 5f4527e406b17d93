"""`algorithm.recipe`: named sets of defaults. A key that the file or the command line has keeps its value.

The paper is arXiv 2506.15050. What it leaves open is taken from VAPO (2504.05118), whose method it builds on, or from
the authors' unmerged recipe for verl; what all three leave open (weight decay, warm-up of the rates, whitening) keeps
our default.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

RecipeName = Literal["none", "paper"]
Source = Literal["paper", "VAPO", "authors' code"]


class RecipeValue(NamedTuple):
    """The default of one key."""

    key: str
    value: Any
    source: Source


RECIPES: dict[RecipeName, tuple[RecipeValue, ...]] = {
    "none": (),
    "paper": (
        RecipeValue("run.mode", "lockstep", "paper"),
        RecipeValue("run.rollouts_per_step", 8192, "paper"),
        RecipeValue("run.window_length", 8192, "paper"),
        RecipeValue("run.max_response_length", 24576, "paper"),
        RecipeValue("data.samples_per_prompt", 16, "paper"),
        RecipeValue("actor.lr", 1e-6, "paper"),
        RecipeValue("critic.lr", 2e-6, "paper"),
        RecipeValue("actor.lr_decay", "constant", "paper"),
        RecipeValue("critic.lr_decay", "constant", "paper"),
        RecipeValue("actor.ppo_mini_batches", 16, "paper"),
        RecipeValue("critic.ppo_mini_batches", 16, "paper"),
        RecipeValue("actor.ppo_epochs", 1, "authors' code"),
        RecipeValue("critic.ppo_epochs", 1, "authors' code"),
        RecipeValue("algorithm.boundary", "hold", "paper"),
        RecipeValue("algorithm.gamma", 1.0, "VAPO"),
        RecipeValue("algorithm.lam", "length_adaptive", "VAPO"),
        RecipeValue("algorithm.lam_alpha", 0.05, "VAPO"),
        RecipeValue("algorithm.lam_floor", 0.95, "authors' code"),
        RecipeValue("algorithm.clip_ratio_low", 0.2, "VAPO"),
        RecipeValue("algorithm.clip_ratio_high", 0.28, "VAPO"),
        RecipeValue("algorithm.clip_ratio_c", 10.0, "authors' code"),
        RecipeValue("algorithm.loss_normalizer", "tokens", "VAPO"),
        RecipeValue("algorithm.lm_loss_weight", 0.1, "VAPO"),
        RecipeValue("algorithm.lm_score_threshold", 0.0, "authors' code"),  # of scores that are 1 or -1
        RecipeValue("algorithm.lm_tokens", "all_windows", "authors' code"),
        RecipeValue("algorithm.num_ignored_tail_tokens", 8, "authors' code"),
        RecipeValue("algorithm.importance_cap", "none", "authors' code"),
        RecipeValue("critic.cliprange_value_low", 0.5, "authors' code"),
        RecipeValue("critic.cliprange_value_high", 0.6, "authors' code"),
        RecipeValue("critic.loss_aggregation", "row_mean", "authors' code"),
        RecipeValue("critic.warmup_steps", 10, "authors' code"),
    ),
}


def with_recipe(table: Mapping[str, Any]) -> dict[str, Any]:
    """The table with the defaults of its recipe. Raises ValueError where its system is not the recipe's."""
    result = {name: dict(owner) if isinstance(owner, dict) else owner for name, owner in table.items()}
    chosen, run = result.get("algorithm"), result.get("run")
    name = chosen.get("recipe") if isinstance(chosen, dict) else None
    values = next((values for recipe, values in RECIPES.items() if recipe == name), ())
    system = run.get("algorithm", "tppo") if isinstance(run, dict) else "tppo"
    if values and system != "tppo":
        raise ValueError(
            f"algorithm.recipe = {name!r} with run.algorithm = {system!r}: the recipe is T-PPO's; expected "
            "run.algorithm = 'tppo', or no such key"
        )
    for key, value, _ in values:
        section, field = key.split(".")
        owner = result.setdefault(section, {})
        if isinstance(owner, dict):
            owner.setdefault(field, value)
    return result


def description(name: RecipeName, value_of: Mapping[str, Any]) -> Iterator[str]:
    """One line for each key, with its value in the run; `value_of`: its tables."""
    for key, value, source in RECIPES[name]:
        section, field = key.split(".")
        found = value_of[section][field]
        chosen = "" if found == value else f", chosen instead of {value}"
        yield f"{key} = {found} ({source}{chosen})"
