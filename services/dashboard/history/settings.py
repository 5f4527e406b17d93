"""A run's resolved configuration as it lies in its folder, and what of it may be shown."""

import re
import tomllib
from pathlib import Path
from typing import Any

from tppo.run_folder.paths import RunPaths

MAX_BYTES = 1024 * 1024
USERINFO = re.compile(r"(?<=://)[^/@\s]*@")
"""User and password in an address such as Redis'."""


def settings_of(folder: Path) -> dict[str, Any]:
    """The tables of `config.toml`; none where it is missing or is no TOML."""
    path = RunPaths(folder).config
    try:
        if path.stat().st_size > MAX_BYTES:
            return {}
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
        return {}


def without_secrets(value: Any) -> Any:
    """The same, with the passwords in addresses left out."""
    if isinstance(value, dict):
        return {key: without_secrets(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_secrets(item) for item in value]
    return USERINFO.sub("***@", value) if isinstance(value, str) else value
