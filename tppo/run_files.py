"""Where a run's folder is, and the names of files in it by which its processes understand each other."""

from tppo.run_folder.paths import run_path

__all__ = ["SETTINGS", "STOPPED_MARK", "run_path"]

SETTINGS = "config.toml"
STOPPED_MARK = "stopped"
