"""Names of files in a run's folder by which its processes understand each other."""

SETTINGS = "config.toml"
"""The resolved configuration, every default spelled out."""

STOPPED_MARK = "stopped"
"""There while the run stands still because an operator stopped it; gone when its next life begins."""
