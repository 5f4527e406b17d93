"""Where a run's folder is, and the names of files in it by which its processes understand each other."""

from pathlib import Path

SETTINGS = "config.toml"
"""The resolved configuration, every default spelled out."""

STOPPED_MARK = "stopped"
"""There while the run stands still because an operator stopped it; gone when its next life begins."""


def run_path(run: str) -> Path:
    """A run's folder, told by its path or by its name under `runs/`; the path as it is when neither is there."""
    named = Path("runs") / run
    return named if named.is_dir() and not Path(run).is_dir() else Path(run)
