"""Which runs a comparison consists of, and which of them are done."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from services.local.metrics import read_metrics
from tppo.config import Config, ConfigError, load
from tppo.config.presets import PRESETS
from tppo.run_folder.paths import RunPaths


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is compared, from the command line."""

    config_path: Path
    algorithms: tuple[str, ...]
    num_seeds: int
    num_evaluations: int
    overrides: tuple[str, ...]
    """`key=value` for all systems, or `algorithm:key=value` for one."""


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """One run of the comparison."""

    algorithm: str
    seed: int
    overrides: tuple[str, ...]
    config: Config

    @property
    def paths(self) -> RunPaths:
        """Where it leaves its results."""
        return RunPaths(self.config.run.path)


def comparison_folder(question: Question) -> Path:
    """`runs/NAME-compare`, of the run's name and directory in the configuration."""
    run = load(question.config_path, overrides_for(question.overrides, None)).run
    return run.directory / f"{run.name}-compare"


def planned_runs(question: Question) -> list[PlannedRun]:
    """Seed after seed, in each the systems in turn: a machine that slows down meanwhile slows all of them down."""
    unknown = [name for name in question.algorithms if name not in PRESETS]
    if unknown:
        raise ConfigError(f"--algorithms: unknown {unknown[0]!r}; expected some of {', '.join(PRESETS)}")
    folder = comparison_folder(question)
    first_seed = load(question.config_path, overrides_for(question.overrides, None)).run.seed
    seeds = range(first_seed, first_seed + question.num_seeds)
    return [_planned(question, folder, algorithm, seed) for seed in seeds for algorithm in question.algorithms]


def overrides_for(overrides: Sequence[str], algorithm: str | None) -> list[str]:
    """Those for all systems, and those for this one without its name."""
    return list(_chosen(overrides, algorithm))


def _chosen(overrides: Sequence[str], algorithm: str | None) -> Iterator[str]:
    for override in overrides:
        owner, colon, rest = override.partition(":")
        if not colon or "=" in owner:
            yield override
        elif owner not in PRESETS:
            raise ConfigError(f"--set {override}: no system {owner!r}; expected one of {', '.join(PRESETS)}")
        elif owner == algorithm:
            yield rest


def is_done(run: PlannedRun) -> bool:
    """Whether the run was trained and evaluated to its end. Raises `ConfigError` when that was with other settings."""
    if not run.paths.summary.exists():
        return False
    last_step = run.config.run.total_training_steps
    metrics = read_metrics(run.paths.metrics)
    is_trained = json.loads(run.paths.summary.read_text(encoding="utf-8"))["steps"] == last_step
    is_evaluated = bool(metrics.evaluations) and metrics.evaluations[-1]["eval/step"] == last_step
    if not (is_trained and is_evaluated):
        return False
    if load(run.paths.config) != run.config:
        raise ConfigError(
            f"{run.paths.folder} was run with other settings; choose another name by --set run.name=NAME, "
            f"or remove the folder"
        )
    return True


def _planned(question: Question, folder: Path, algorithm: str, seed: int) -> PlannedRun:
    chosen = overrides_for(question.overrides, algorithm)
    steps = load(question.config_path, [*chosen, f"run.algorithm={algorithm}"]).run.total_training_steps
    overrides = (
        "evaluation.after_training=true",  # nothing but training while the clock runs
        f"evaluation.test_freq={-(-steps // question.num_evaluations)}",
        "checkpoint.save_freq=0",
        "dashboard.port=0",
        *chosen,
        f"run.algorithm={algorithm}",
        f"run.seed={seed}",
        f"run.name={folder.name}-{algorithm}-seed{seed}",
        f'run.directory="{folder}"',
    )
    config = load(question.config_path, overrides)
    return PlannedRun(algorithm=algorithm, seed=seed, overrides=overrides, config=config)
