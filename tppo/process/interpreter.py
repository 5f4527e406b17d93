"""`tppo` as a process of its own, perhaps with the Python of another environment that has other packages."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from tppo.config import ConfigError

CODE = Path(__file__).resolve().parents[2]
RESTARTED_VARIABLE = "TPPO_RESTARTED_WITH"  # the interpreter that this process was restarted with


def tppo_command(*arguments: str, python: Path | None = None) -> list[str]:
    """A verb as a child process; -P keeps the current folder's own `tppo`, `services` or `learner` out."""
    return [str(python or sys.executable), "-P", "-m", "tppo", *arguments]


def environment_of_python(python: Path | None) -> dict[str, str]:
    """What lets another interpreter run the code that runs here, whatever is installed there."""
    if python is None:
        return {}
    places = [str(CODE), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return {"PYTHONPATH": os.pathsep.join(places)}


def require_python(python: Path | None, *, key: str) -> None:
    """Raise `ConfigError` unless the interpreter is there."""
    if python is not None and not (python.is_file() and os.access(python, os.X_OK)):
        raise ConfigError(
            f"{key} = {python}: no such program; expected the Python interpreter of an environment that generators "
            "run in, such as ENVIRONMENT/bin/python"
        )


def restart_with(python: Path | None, arguments: Sequence[str], *, key: str) -> None:
    """Go on as a process of that interpreter, unless this is one. Raises `ConfigError`; returns where nothing is to do.

    A program that starts another interpreter is restarted once.
    """
    if python is None or str(python.absolute()) == sys.executable or os.environ.get(RESTARTED_VARIABLE) == str(python):
        return
    require_python(python, key=key)
    environment = {**os.environ, **environment_of_python(python), RESTARTED_VARIABLE: str(python)}
    sys.stdout.flush()
    os.execve(python, tppo_command(*arguments, python=python), environment)
