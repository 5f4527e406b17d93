"""Weights & Biases: one run, in `wandb/` of the run's folder, over all lives of the learner.

Its own counter of steps only rises, while an evaluation ends when later steps are told already: `step` is a metric of
its own, against which all others are drawn.
"""

from collections.abc import Mapping
from typing import Any

import wandb

from learner.reporting.trackers.beginning import Beginning
from learner.reporting.trackers.told import Told

INIT_SECONDS = 60.0


def begin(beginning: Beginning) -> tuple[Told, "WandbRun"]:
    """What was told stays, and is not told again; only after a roll back another run of W&B begins."""
    told = Told(beginning.own_file("wandb.json"), first_branch=beginning.run_id)
    if beginning.is_rolled_back:
        told.branch = f"{beginning.run_id}-{beginning.incarnation}"
        told.forget_after(beginning.through_step)
    return told, WandbRun(beginning, run_id=told.branch)


class WandbRun:
    """Takes numbers only: no console, no code, nothing of the machine."""

    def __init__(self, beginning: Beginning, *, run_id: str) -> None:
        self._run = wandb.init(
            project=beginning.project,
            id=run_id,
            name=beginning.run,
            group=beginning.run,
            dir=beginning.folder,
            mode=beginning.mode,  # type: ignore[arg-type]
            resume="allow" if beginning.mode == "online" else None,
            config=dict(beginning.settings),
            settings=_settings(),
        )
        self._run.define_metric("*", step_metric="step")

    def write(self, step: int, seconds: float, points: Mapping[str, float]) -> None:
        """One row of the run's history."""
        self._run.log({"step": step, "time": seconds, **points})

    def close(self) -> None:
        """Upload the rest; once W&B's own process has ended, too, everything is on the disk."""
        self._run.finish()
        wandb.teardown()


def _settings() -> Any:
    return wandb.Settings(
        console="off",
        silent=True,
        disable_git=True,
        disable_code=True,
        save_code=False,
        x_disable_stats=True,
        x_disable_meta=True,
        x_disable_machine_info=True,
        init_timeout=INIT_SECONDS,
    )
