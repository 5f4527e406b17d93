"""Where a service's token is when the environment does not hold it: in the run's folder, for its owner alone.

A client of the same user that knows no more than an address finds the token by the port: the reward service leaves it
in a folder of the user's, which nobody else can enter.
"""

import contextlib
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tppo.config import ConfigError
from tppo.run_folder.paths import RunPaths
from tppo.security.authentication import Service, Token, is_loopback, token_from_environment
from tppo.security.private_files import OTHERS, kept_secret, private_folder, read_secret, write_secret
from tppo.security.tls import TlsFiles

log = logging.getLogger(__name__)

RUNTIME_FOLDER_VARIABLE = "TPPO_RUNTIME_DIR"


def service_token(folder: Path, service: Service) -> str:
    """What callers must bring; empty where mutual TLS alone decides. Kept in the run's folder, made on first use."""
    if given := token_from_environment(service):
        return given
    return "" if TlsFiles.from_environment() is not None else run_token(folder, service)


def client_token(folder: Path, service: Service) -> str:
    """What clients of a service over HTTP must bring, where no certificate stands in: never empty."""
    return token_from_environment(service) or run_token(folder, service)


def run_token(folder: Path, service: Service) -> str:
    """The one in the run's folder, made on first use. Raises `ConfigError`."""
    path = RunPaths(folder).token(service)
    try:
        return kept_secret(path)
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot keep the bearer token of {service}: {error.strerror}; expected a folder that can be "
            f"written to, or the token in {service.variable}"
        ) from None


def token_for(address: str) -> str:
    """The token of the reward service at host:port: from the environment, else as a service on this host left it."""
    if given := token_from_environment(Service.REWARD):
        return given
    host, _, port = address.rpartition(":")
    if not port.isdecimal() or not is_loopback(host.strip("[]")) or not _is_ours(runtime_folder()):
        return ""
    return read_secret(_published_at(int(port)))


@contextmanager
def published(port: int, token: Token) -> Iterator[None]:
    """Lets the same user's clients on this host find the token of the reward service at the port."""
    path = _published_at(port)
    _publish(path, str(token))
    if not isinstance(token, str):
        token.on_change = lambda newest: _publish(path, newest)
    try:
        yield
    finally:
        if read_secret(path) == str(token):
            with contextlib.suppress(OSError):
                path.unlink()


def _publish(path: Path, token: str) -> None:
    try:
        if not _is_ours(private_folder(path.parent)):
            raise PermissionError(f"{path.parent}: expected a folder of this user's, closed to others")
        write_secret(path, token)
    except OSError as error:
        log.warning("clients must bring the token in %s: %s", Service.REWARD.variable, error)


def runtime_folder() -> Path:
    """Of this user on this host. Not in the home folder, which hosts may share while ports are each host's own."""
    return Path(os.environ.get(RUNTIME_FOLDER_VARIABLE) or f"/tmp/tppo-{os.getuid()}")


def _published_at(port: int) -> Path:
    return runtime_folder() / f"reward-{port}.token"


def _is_ours(folder: Path) -> bool:
    """Whoever made it under /tmp, only a folder of this user's that others cannot enter is trusted."""
    try:
        state = folder.lstat()
    except OSError:
        return False
    return folder.is_dir() and state.st_uid == os.getuid() and not state.st_mode & OTHERS
