"""What is evaluated: a run's checkpoint, a model's folder, or the policy of a run that trains."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from tppo.config import Config, ConfigError, load
from tppo.run_folder.checkpoints import PREFIX, CheckpointFolder, step_of
from tppo.run_folder.paths import RunPaths, run_path

DEFAULT_FUNCTION = "math"
"""Of data sources for which the run has none."""
MINIMAL = '[model]\npath = {model}\n[data]\ntrain_files = ["none"]\n'
"""The configuration of a model that is of no run."""


@dataclass(frozen=True, slots=True)
class Target:
    """A policy, and how it is sampled and scored."""

    config: Config
    model: Path  # its folder; of a live run, where its tokenizer is
    policy_version: int
    results: Path  # where its results go, unless another folder is named
    run: Path | None = None  # of a live policy


def target_of(name: str, *, is_live: bool, checkpoint: str, overrides: Sequence[str]) -> Target:
    """Of the command line. Raises `ConfigError`."""
    folder = run_path(name)
    if not folder.is_dir():
        raise ConfigError(
            f"{name}: no such folder; expected a run's, or its name under runs/, a checkpoint's, or a model's"
        )
    if RunPaths(folder).config.is_file():
        return _of_run(folder, is_live=is_live, checkpoint=checkpoint, overrides=overrides)
    if is_live:
        raise ConfigError(f"--live {name}: no config.toml there; expected the folder of a run")
    if (folder / "actor" / "config.json").is_file():
        return _of_checkpoint(folder, overrides)
    if (folder / "config.json").is_file():
        return Target(_config_of_model(folder, overrides), folder, 0, Path("evals") / folder.resolve().name)
    raise ConfigError(f"{name}: neither config.toml nor config.json there; expected a run's, checkpoint's or model's")


def _of_run(run: Path, *, is_live: bool, checkpoint: str, overrides: Sequence[str]) -> Target:
    paths = RunPaths(run)
    config = load(paths.config, overrides)
    if is_live:
        return Target(config, config.model.path, 0, run / "evals" / "live", run)
    chosen = _chosen(CheckpointFolder(paths.checkpoints), checkpoint)
    return Target(config, chosen / "actor", step_of(chosen), run / "evals" / chosen.name)


def _of_checkpoint(folder: Path, overrides: Sequence[str]) -> Target:
    """With the configuration of its run, where it still lies in one."""
    run = folder.resolve().parent.parent
    version = step_of(folder.resolve()) if folder.resolve().name.startswith(PREFIX) else 0
    config_file = RunPaths(run).config
    model = folder / "actor"
    config = load(config_file, overrides) if config_file.is_file() else _config_of_model(model, overrides)
    results = (run if config_file.is_file() else Path()) / "evals" / folder.resolve().name
    return Target(config, model, version, results)


def _chosen(checkpoints: CheckpointFolder, words: str) -> Path:
    steps = checkpoints.complete_steps()
    if not steps:
        raise ConfigError(f"{checkpoints.path}: no complete checkpoint; expected one, or --live for a run that trains")
    best = checkpoints.best()
    named = {"latest": steps[-1], **({"best": best.step} if best else {}), **{str(step): step for step in steps}}
    if words not in named:
        raise ConfigError(f"--checkpoint {words}: expected one of {', '.join(named)}")
    return checkpoints.of_step(named[words])


def _config_of_model(folder: Path, overrides: Sequence[str]) -> Config:
    """Of defaults. The file is never read again, so its folder does not matter."""
    with TemporaryDirectory(prefix="tppo-") as scratch:
        path = Path(scratch) / "eval.toml"
        path.write_text(MINIMAL.format(model=json.dumps(str(folder.resolve()))), encoding="utf-8")
        return load(path, overrides)


def serving_config(target: Target, *, results: Path, function: str, max_tokens: int, num_at_once: int) -> Config:
    """Of the processes that serve the evaluation: beside any run, on the loopback."""
    config = target.config
    generation = config.generation
    reward = config.reward
    if function:
        reward = reward.model_copy(update={"functions": {}, "default_function": function})
    elif not reward.default_function:
        reward = reward.model_copy(update={"default_function": DEFAULT_FUNCTION})
    endpoint = {"enabled": True, "host": "127.0.0.1", "advertise_host": "", "port": 0}
    bounds = {"max_requests": num_at_once, "timeout_seconds": 31_536_000.0}  # whoever waits here waits for itself
    run = {"name": "eval", "directory": results, "max_response_length": max_tokens, "window_length": max_tokens}
    return config.model_copy(
        update={
            "run": config.run.model_copy(update=run),
            "model": config.model.model_copy(update={"path": target.model.absolute()}),
            "actor": config.actor.model_copy(update={"lora_rank": 0}),  # adapters are served in sum with their body
            "generation": generation.model_copy(update={"replicas": 1, "port": 0, "host": "127.0.0.1"}),
            "endpoint": config.endpoint.model_copy(update=endpoint | bounds),
            "reward": reward.model_copy(update={"port": 0, "host": "127.0.0.1"}),
            "prometheus": config.prometheus.model_copy(update={"enabled": False}),
        }
    )


def has_chat_template(model: Path) -> bool:
    """Whether the folder's tokenizer renders messages."""
    if (model / "chat_template.jinja").is_file():
        return True
    try:
        return bool(json.loads((model / "tokenizer_config.json").read_text(encoding="utf-8")).get("chat_template"))
    except (OSError, ValueError):
        return False
