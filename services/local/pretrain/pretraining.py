"""A run in which the value model alone trains, and its critic as a folder.

It is a run like any other, all of it warm-up: its processes, its inbox and its checkpoints are those of `tppo run`, so
whatever crashes is restarted, and the same command continues it. Each step takes whole responses that were requested
together, so that it sees the long ones as often as they are sampled.
"""

import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from services.local import launch
from services.local.pretrain.stopping import Course, StopRule
from services.local.supervision.child import Ending
from tppo.config import Config, ConfigError
from tppo.config.presets import KEYS_OF_SYSTEMS
from tppo.process.interpreter import tppo_command
from tppo.run_folder.checkpoints import CheckpointFolder
from tppo.run_folder.ending import EndingKind
from tppo.run_folder.metric_lines import STEP, read_metric_lines
from tppo.run_folder.paths import RunPaths

SAVE_FREQ = 5
"""Steps between two checkpoints; a step takes as long as the longest response."""


def pretraining_config(config: Config, *, max_steps: int) -> Config:
    """Of the run that trains the value model for `config`: Monte-Carlo targets, whatever the system's own."""
    table: dict[str, Any] = config.model_dump(mode="json", exclude_none=True)
    run, critic = table["run"], table["critic"]
    run |= {"name": f"{run['name']}-critic", "algorithm": "tppo", "total_training_steps": max_steps}
    run["window_length"] = run["max_response_length"]
    critic |= {"warmup_steps": max_steps, "lr_decay": "constant"}
    critic.pop("lr_decay_steps", None)
    for key in KEYS_OF_SYSTEMS:
        section, name = key.split(".")
        del table[section][name]
    table["data"]["val_files"] = []
    table["evaluation"] |= {"sets": {}, "test_freq": 0, "val_before_train": False, "after_training": False}
    table["checkpoint"] |= {"save_freq": SAVE_FREQ, "keep": 1}
    table["trace"] |= {"enabled": False}
    return Config.model_validate(table)


class Pretraining:
    """One value model, from the first response to its folder."""

    def __init__(
        self, config: Config, rule: StopRule, *, source: Path, max_steps: int, output: str | None = None
    ) -> None:
        """`source` is the user's file, and `output` the folder that is to be made."""
        self._config = pretraining_config(config, max_steps=max_steps)
        self._paths = RunPaths(self._config.run.path)
        self._course = Course(rule)
        self._source = source
        self._output = Path(output) if output is not None else self._paths.folder / "critic"
        self._console = Console(highlight=False, soft_wrap=True, markup=False)

    def run(self, *, started_at: float) -> int:
        """The exit code; `started_at` is on the monotonic clock."""
        if self._output.exists() and not (self._output.is_dir() and not any(self._output.iterdir())):
            raise ConfigError(f"{self._output} is there already; expected --output with a new or an empty folder")
        if not self._is_over():
            ending = self._train(started_at)
            if ending.kind is not EndingKind.FINISHED:
                return ending.exit_code
        self._export()
        return 0

    def _is_over(self) -> bool:
        """Whether an earlier call has trained to the end."""
        newest = CheckpointFolder(self._paths.checkpoints).newest_step() or 0
        course = Course(self._course.rule)
        for line in read_metric_lines(self._paths.metrics):
            if line["kind"] == STEP and line["step"] <= newest:
                course.take(line)
        if not course.reason and newest < self._config.run.total_training_steps:
            return False
        self._course = course
        return True

    def _train(self, started_at: float) -> Ending:
        config, resume = self._config, CheckpointFolder(self._paths.checkpoints).newest() is not None
        notes = launch.check(config, resume=resume)
        self._console.print(
            f"trains the value model alone, on responses of {config.model.path}, for {config.run.total_training_steps} "
            "steps at most"
        )
        plan = launch.plan_of(config, resume=resume)
        with launch.dashboard_socket(config) as listening:
            plan = replace(plan, dashboard_socket=listening)
            with launch.prepared(plan):
                ending, _ = launch.run_to_its_end(
                    plan, notes, self._console, started_at=started_at, is_enough=self._course.take
                )
        launch.report_failure(ending)
        if ending.kind is EndingKind.INTERRUPTED:
            self._console.print(f"stopped at training step {self._course.num_steps}; the same command continues")
        return ending

    def _export(self) -> None:
        command = ["export", str(self._paths.folder), "--what", "value_model", "--output", str(self._output)]
        finished = subprocess.run(tppo_command(*command), capture_output=True, text=True, check=False)
        if finished.returncode:
            raise ConfigError(finished.stderr.strip().removeprefix("tppo export: "))
        course = self._course
        explained = "an unknown share" if course.mean is None else f"{course.mean:.3f}"
        self._console.print(
            f"the value model explains {explained} of the returns' variance after {course.num_steps} steps: "
            f"{course.reason or 'they are all that --max-steps allows'}\n"
            f"train with it: tppo run {self._source} --set model.critic_path={self._output} --set critic.warmup_steps=0"
        )
