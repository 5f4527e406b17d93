"""A bearer token in a file, which its owner may replace while processes run.

Both sides look at the file once a second at most. A server accepts the former token for `GRACE_SECONDS` after the file
was written, so that callers need not change in the same moment; after a restart it knows the new one alone.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path

from tppo.config import ConfigError
from tppo.run_folder.paths import RunPaths
from tppo.security.authentication import (
    METRICS_TOKEN_VARIABLE,
    TOKEN_VARIABLE,
    Service,
    is_same_text,
    metrics_token_from_environment,
    token_from_environment,
)
from tppo.security.environment import FILE_SUFFIX
from tppo.security.private_files import read_secret
from tppo.security.service_tokens import client_token, service_token

GRACE_SECONDS = 600.0
LOOK_SECONDS = 1.0


class RotatingToken:
    """What a file holds; `path` is None for a token that stays."""

    def __init__(
        self, token: str, path: Path | None, read: Callable[[], str], *, clock: Callable[[], float] = time.time
    ) -> None:
        """`token`: what it is now; `clock`: seconds, as files are dated by."""
        self._current, self._former, self._former_until = token, "", 0.0
        self._path, self._read, self._clock = path, read, clock
        self.on_change: Callable[[str], None] = lambda token: None
        self._written_at = self._date()
        self._looked_at = clock()

    def __str__(self) -> str:
        """The newest one, as callers send it."""
        self._look()
        return self._current

    def __repr__(self) -> str:
        return "RotatingToken()"

    def __bool__(self) -> bool:
        return bool(self._current)

    def accepts(self, given: str) -> bool:
        """Whether it is the newest one, or the former one in its time of grace."""
        self._look()
        is_current = is_same_text(given, self._current)
        return is_current or (self._clock() < self._former_until and is_same_text(given, self._former))

    def _look(self) -> None:
        now = self._clock()
        if self._path is None or 0 <= now - self._looked_at < LOOK_SECONDS:
            return
        self._looked_at = now
        date = self._date()
        if date in (None, self._written_at):
            return
        try:
            found = self._read()
        except ConfigError:  # half written, or gone for a moment
            return
        if not found:
            return
        if found != self._current:
            self._former, self._former_until = self._current, date / 1e9 + GRACE_SECONDS
            self._current = found
            self.on_change(found)
        self._written_at = date

    def _date(self) -> int | None:
        try:
            return None if self._path is None else self._path.stat().st_mtime_ns
        except OSError:
            return None


def served_token(folder: Path, service: Service) -> RotatingToken | str:
    """What callers of a service must bring; an empty text where mutual TLS alone decides. Raises `ConfigError`."""
    return _rotating(folder, service, token) if (token := service_token(folder, service)) else ""


def served_client_token(folder: Path, service: Service) -> RotatingToken:
    """The same of a service over HTTP, which always has one."""
    return _rotating(folder, service, client_token(folder, service))


def rotating_metrics_token() -> RotatingToken | str:
    """Of those who scrape; an empty text where the environment has none."""
    token = metrics_token_from_environment()
    path = _file_of(METRICS_TOKEN_VARIABLE)
    return RotatingToken(token, path, metrics_token_from_environment) if token else ""


def _rotating(folder: Path, service: Service, token: str) -> RotatingToken:
    for variable in (service.variable, TOKEN_VARIABLE):
        if os.environ.get(variable):
            return RotatingToken(token, None, str)
        if path := _file_of(variable):
            return RotatingToken(token, path, lambda: token_from_environment(service))
    path = RunPaths(folder).token(service)
    return RotatingToken(token, path, lambda: read_secret(path))


def _file_of(variable: str) -> Path | None:
    name = os.environ.get(variable + FILE_SUFFIX, "").strip()
    return Path(name) if name and not os.environ.get(variable) else None
