"""Secrets from the environment: in a variable, or in the file that the variable with `_FILE` behind its name names.

Containers are given secrets as files, which `docker inspect` and a child's environment do not show.
"""

import os
from pathlib import Path

from tppo.config import ConfigError

FILE_SUFFIX = "_FILE"
TLS_VARIABLES = ("TPPO_TLS_CA", "TPPO_TLS_CERTIFICATE", "TPPO_TLS_KEY")
"""Paths of PEM files: the authority's certificate, this process's own, and its private key."""


def secret_from_environment(variable: str) -> str:
    """Empty where neither is set. A file is read at each call. Raises `ConfigError` where it cannot be read."""
    if given := os.environ.get(variable, "").strip():
        return given
    path = os.environ.get(variable + FILE_SUFFIX, "").strip()
    if not path:
        return ""
    try:
        found = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        expected = f"expected a file with the secret, which this user (UID {os.getuid()}) can read"
        raise ConfigError(f"{variable}{FILE_SUFFIX} = {path}: {_reason(error)}; {expected}") from None
    if not found:
        raise ConfigError(f"{variable}{FILE_SUFFIX} = {path}: the file is empty; expected the secret")
    return found


def _reason(error: OSError | ValueError) -> str:
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)


def both_names(variable: str) -> tuple[str, str]:
    """The variables by which a process may be given this secret."""
    return variable, variable + FILE_SUFFIX
