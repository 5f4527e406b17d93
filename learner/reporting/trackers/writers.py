"""The writers of TensorBoard and of Weights & Biases. A package is imported only by the process that uses it.

TensorBoard: a file of events in `tensorboard/` for each incarnation of the learner; TensorFlow is not needed.
W&B: one run in `wandb/` of the run's folder over all restarts of the learner. Its own counter of steps only rises,
while an evaluation ends when later steps are reported already: `step` is a metric of its own, against which all others
are drawn.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from learner.reporting.trackers.contract import ReportedSteps, TrackerStart, TrackerWriter

WANDB_INIT_SECONDS = 60.0


def start_tensorboard(start: TrackerStart) -> tuple[ReportedSteps, TrackerWriter]:
    """TensorBoard itself drops the points of steps that this incarnation takes again."""
    reported = _reported(start, "tensorboard.json")
    reported.forget_after(start.through_step)
    return reported, EventFile(Path(start.folder) / "tensorboard", purge_step=start.through_step + 1)


def start_wandb(start: TrackerStart) -> tuple[ReportedSteps, TrackerWriter]:
    """Reported points stay, and are not reported again; only after a rollback another run of W&B begins."""
    reported = _reported(start, "wandb.json")
    if start.is_rolled_back:
        reported.branch = f"{start.run_id}-{start.incarnation}"
        reported.forget_after(start.through_step)
    return reported, WandbRun(start, run_id=reported.branch)


def _reported(start: TrackerStart, name: str) -> ReportedSteps:
    return ReportedSteps(start.file(name), first_branch=start.run_id, through_step=start.through_step)


STARTS: Mapping[str, Callable[[TrackerStart], tuple[ReportedSteps, TrackerWriter]]] = {
    "tensorboard": start_tensorboard,
    "wandb": start_wandb,
}


class EventFile:
    """Each write is on the disk before it returns."""

    def __init__(self, folder: Path, *, purge_step: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._file = EventFileWriter(str(folder))
        self._file.add_event(Event(step=purge_step, session_log=SessionLog(status=SessionLog.START)))
        self._file.flush()

    def write(self, step: int, seconds: float, points: Mapping[str, float]) -> None:
        """One event."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=name, simple_value=value) for name, value in points.items()]
        self._file.add_event(Event(wall_time=seconds, step=step, summary=Summary(value=values)))
        self._file.flush()

    def close(self) -> None:
        """Everything is on the disk already."""
        self._file.close()


class WandbRun:
    """Takes numbers only: no console, no code, nothing of the machine."""

    def __init__(self, start: TrackerStart, *, run_id: str) -> None:
        import wandb

        self._run = wandb.init(
            project=start.project,
            id=run_id,
            name=start.run,
            group=start.run,
            dir=start.folder,
            mode=start.mode,  # type: ignore[arg-type]
            resume="allow" if start.mode == "online" else None,
            config=dict(start.settings),
            settings=_wandb_settings(),
        )
        self._run.define_metric("*", step_metric="step")

    def write(self, step: int, seconds: float, points: Mapping[str, float]) -> None:
        """One row of the run's history."""
        self._run.log({"step": step, "time": seconds, **points})

    def close(self) -> None:
        """Upload the rest; once W&B's own process has ended, too, everything is on the disk."""
        import wandb

        self._run.finish()
        wandb.teardown()


def _wandb_settings() -> Any:
    import wandb

    return wandb.Settings(
        console="off",
        silent=True,
        disable_git=True,
        disable_code=True,
        save_code=False,
        x_disable_stats=True,
        x_disable_meta=True,
        x_disable_machine_info=True,
        init_timeout=WANDB_INIT_SECONDS,
    )
