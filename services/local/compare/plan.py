"""Which runs a comparison consists of, and which of them are done."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from services.local.metrics import RunMetrics
from tppo.config import Config, ConfigError, load
from tppo.config.presets import PRESETS
from tppo.run_folder.json_files import DamagedFileError, read_object
from tppo.run_folder.metric_lines import END, read_metric_lines
from tppo.run_folder.paths import RunPaths

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,31}")


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is compared, from the command line."""

    config_path: Path
    systems: Mapping[str, str]
    """`run.algorithm` of each, by the name under which it is compared."""
    num_seeds: int
    num_evaluations: int
    overrides: tuple[str, ...]
    """`key=value` for all systems, or `name:key=value` for one."""


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """One run of the comparison."""

    system: str
    seed: int
    overrides: tuple[str, ...]
    config: Config

    @property
    def paths(self) -> RunPaths:
        """Where it leaves its results."""
        return RunPaths(self.config.run.path)


def comparison_folder(question: Question) -> Path:
    """`runs/NAME-compare`, of the run's name and directory in the configuration."""
    run = load(question.config_path, overrides_for(question, None)).run
    return run.directory / f"{run.name}-compare"


def planned_runs(question: Question) -> list[PlannedRun]:
    """Seed after seed, in each the systems in turn: a machine that slows down meanwhile slows all of them down."""
    folder = comparison_folder(question)
    first_seed = load(question.config_path, overrides_for(question, None)).run.seed
    seeds = range(first_seed, first_seed + question.num_seeds)
    return [_planned(question, folder, system, seed) for seed in seeds for system in question.systems]


def systems_in(text: str) -> dict[str, str]:
    """`ppo,formula=vapo`: a system under its own name, and one under another. Raises `ConfigError`."""
    found: dict[str, str] = {}
    for part in text.split(","):
        name, equals, algorithm = part.strip().partition("=")
        algorithm = algorithm if equals else name
        if algorithm not in PRESETS:
            raise ConfigError(
                f"--algorithms {text}: unknown {algorithm!r}; expected some of {', '.join(PRESETS)}, or NAME=ALGORITHM"
            )
        if not NAME.fullmatch(name) or (name in PRESETS and name != algorithm):
            raise ConfigError(
                f"--algorithms {text}: the name {name!r}; expected up to 32 letters, digits, '-', '_' or '.', and no "
                "name of another system"
            )
        if name in found:
            raise ConfigError(f"--algorithms {text}: {name!r} twice; expected NAME={algorithm} for the second")
        found[name] = algorithm
    return found


def overrides_for(question: Question, system: str | None) -> list[str]:
    """Those for all systems, and those for this one without its name."""
    return list(_chosen(question, system))


def _chosen(question: Question, system: str | None) -> Iterator[str]:
    for override in question.overrides:
        owner, colon, rest = override.partition(":")
        if not colon or "=" in owner:
            yield override
        elif owner not in question.systems:
            raise ConfigError(f"--set {override}: no system {owner!r}; expected one of {', '.join(question.systems)}")
        elif owner == system:
            yield rest


def is_done(run: PlannedRun) -> bool:
    """Whether the run was trained and evaluated to its end. Raises `ConfigError` when that was with other settings."""
    last_step = run.config.run.total_training_steps
    lines = read_metric_lines(run.paths.metrics)
    evaluations = RunMetrics(lines).evaluations
    is_trained = _trained_steps(run.paths.summary) == last_step and any(line["kind"] == END for line in lines)
    is_evaluated = bool(evaluations) and evaluations[-1]["step"] == last_step
    if not (is_trained and is_evaluated):
        return False
    if load(run.paths.config) != run.config:
        raise ConfigError(
            f"{run.paths.folder} was run with other settings; choose another name by --set run.name=NAME, "
            f"or remove the folder"
        )
    return True


def _trained_steps(summary: Path) -> int:
    """By a run's summary; 0 where it has none, or a damaged one: the run is started from scratch then."""
    try:
        return int((read_object(summary, {"steps": int}) or {"steps": 0})["steps"])
    except DamagedFileError:
        return 0


def _planned(question: Question, folder: Path, system: str, seed: int) -> PlannedRun:
    algorithm = question.systems[system]
    chosen = overrides_for(question, system)
    steps = load(question.config_path, [*chosen, f"run.algorithm={algorithm}"]).run.total_training_steps
    overrides = (
        "evaluation.after_training=true",  # nothing but training while the clock runs
        f"evaluation.test_freq={-(-steps // question.num_evaluations)}",
        "checkpoint.save_freq=0",
        "dashboard.port=0",
        *chosen,
        "evaluation.val_before_train=true",  # each curve begins at the base model
        f"run.algorithm={algorithm}",
        f"run.seed={seed}",
        f"run.name={folder.name}-{system}-seed{seed}",
        f'run.directory="{folder}"',
    )
    config = load(question.config_path, overrides)
    return PlannedRun(system=system, seed=seed, overrides=overrides, config=config)
