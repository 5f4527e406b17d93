"""`runs/NAME/`: what a run leaves behind, and where."""

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tppo.config import ConfigError
from tppo.run_files import SETTINGS, STOPPED_MARK


@dataclass(frozen=True)
class RunFolder:
    """The paths of one run; results of earlier runs are never overwritten while they hold a checkpoint."""

    path: Path

    @property
    def config(self) -> Path:
        """The resolved configuration, every default spelled out."""
        return self.path / SETTINGS

    @property
    def logs(self) -> Path:
        """One file per process."""
        return self.path / "logs"

    @property
    def metrics(self) -> Path:
        """One JSON object per training step and per evaluation, written by the learner."""
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        """`global_step_N/`, written by the learner."""
        return self.path / "checkpoints"

    @property
    def redis(self) -> Path:
        """The embedded server's append-only file."""
        return self.path / "redis"

    @property
    def inbox(self) -> Path:
        """The archived log, when the run keeps one."""
        return self.path / "inbox"

    @property
    def learning_curve(self) -> Path:
        """Accuracy and reward as a picture."""
        return self.path / "learning_curve.png"

    @property
    def summary(self) -> Path:
        """The run in nine numbers."""
        return self.path / "summary.json"

    def is_stopped(self) -> bool:
        """Whether an operator has stopped the run before its last step."""
        return (self.path / STOPPED_MARK).exists()

    def checkpoint_step(self) -> int | None:
        """The step of the newest committed checkpoint, which the learner names in `latest`."""
        pointer = self.checkpoints / "latest"
        return int(pointer.read_text(encoding="utf-8").strip().rpartition("_")[2]) if pointer.exists() else None

    def has_checkpoint(self) -> bool:
        """Whether a run can be resumed from here."""
        return self.checkpoint_step() is not None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other runs out of the folder; the operating system lets go when this process ends, however it does."""
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / "lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ConfigError(f"{self.path} is in use by another tppo run; expected another run.name") from None
            yield

    def prepare(self, *, resume: bool) -> None:
        """Make the folders; a run that starts anew leaves nothing of an attempt that never reached a checkpoint."""
        if not resume:
            for folder in (self.logs, self.redis, self.checkpoints, self.inbox):
                shutil.rmtree(folder, ignore_errors=True)
            for file in (self.metrics, self.summary, self.learning_curve, self.path / STOPPED_MARK):
                file.unlink(missing_ok=True)
        for folder in (self.logs, self.redis, self.checkpoints):
            folder.mkdir(parents=True, exist_ok=True)
