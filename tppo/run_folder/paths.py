"""Where a run's folder is, and the names in it that its processes agree on."""

import re
from dataclasses import dataclass
from pathlib import Path

TRACE_NAME = re.compile(r"step_(\d{1,12})\.parquet")


@dataclass(frozen=True, slots=True)
class RunPaths:
    """The files and folders of one run."""

    folder: Path

    @property
    def config(self) -> Path:
        """The resolved configuration, every default spelled out."""
        return self.folder / "config.toml"

    @property
    def metrics(self) -> Path:
        """A JSON line per training step and per evaluation, written by the learner (docs/metrics.md)."""
        return self.folder / "metrics.jsonl"

    @property
    def journal(self) -> Path:
        """A JSON line per window event and per event of the run, written by the learner (docs/journal.md)."""
        return self.folder / "journal.jsonl"

    @property
    def checkpoints(self) -> Path:
        """`global_step_N/`, written by the learner; `CheckpointFolder` finds them."""
        return self.folder / "checkpoints"

    @property
    def traces(self) -> Path:
        """One parquet file of token traces per training step, written by the learner (docs/traces.md)."""
        return self.folder / "traces"

    @property
    def inbox(self) -> Path:
        """The archived inbox, when the run keeps one."""
        return self.folder / "inbox"

    @property
    def responses(self) -> Path:
        """Scored responses: a JSON Lines file per reward service."""
        return self.folder / "responses"

    @property
    def completions(self) -> Path:
        """Some responses of every so many training steps for the console, written by the learner."""
        return self.folder / "completions.jsonl"

    @property
    def deferred(self) -> Path:
        """Weights whose evaluation is deferred to the end of training."""
        return self.folder / "deferred"

    @property
    def replays(self) -> Path:
        """A run's folder per replay."""
        return self.folder / "replays"

    @property
    def rolled_back(self) -> Path:
        """What rollbacks have removed: a folder per incarnation of the learner."""
        return self.folder / "rolled_back"

    @property
    def exports(self) -> Path:
        """A Hugging Face folder per exported model."""
        return self.folder / "exports"

    @property
    def identity(self) -> Path:
        """The run's unique id and the learner's incarnation."""
        return self.folder / "identity.json"

    @property
    def stopped_mark(self) -> Path:
        """Exists while the run is stopped by an operator, until the learner is started again."""
        return self.folder / "stopped"

    @property
    def redis_url(self) -> Path:
        """While `tppo run` keeps a server of its own: its address, with the password; readable by its owner only."""
        return self.folder / "redis.url"

    @property
    def logs(self) -> Path:
        """One text file per process."""
        return self.folder / "logs"

    @property
    def redis(self) -> Path:
        """The embedded server's append-only file."""
        return self.folder / "redis"

    @property
    def lock(self) -> Path:
        """Locked by `tppo run` for as long as it runs."""
        return self.folder / "lock"

    @property
    def summary(self) -> Path:
        """The run in a few numbers, written by `tppo run`."""
        return self.folder / "summary.json"

    @property
    def learning_curve(self) -> Path:
        """Accuracy and reward as a picture, written by `tppo run`."""
        return self.folder / "learning_curve.png"

    @property
    def record_secret(self) -> Path:
        """By what the records of the inbox are sealed and verified, one a line; readable by its owner only."""
        return self.folder / "record.secret"

    def token(self, service: str) -> Path:
        """The bearer token that opens the service; the dashboard's steers the run. Readable by its owner only."""
        return self.folder / f"{service}.token"

    def is_stopped(self) -> bool:
        """Whether an operator has stopped the run before its last step."""
        return self.stopped_mark.exists()


def run_path(run: str) -> Path:
    """A run's folder, given by its path or by its name under `runs/`; the path itself when neither exists."""
    named = Path("runs") / run
    return named if named.is_dir() and not Path(run).is_dir() else Path(run)


def trace_path(traces: Path, step: int) -> Path:
    """The trace of a training step in the folder of traces."""
    return traces / f"step_{step:06d}.parquet"


def trace_files(traces: Path) -> dict[int, Path]:
    """The traces in the folder by training step, in order."""
    named = ((TRACE_NAME.fullmatch(path.name), path) for path in traces.glob("step_*.parquet"))
    return dict(sorted((int(match[1]), path) for match, path in named if match))


def modified_at(path: Path) -> float:
    """Seconds since the epoch; 0 for a file that is missing."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
