"""Sockets that listen at an address of the configuration, or one sentence that names the key and says why not."""

import errno
import socket
from collections.abc import Sequence

from tppo.config import ConfigError

BACKLOG = 128


def listener(host: str, port: int, *, key: str) -> socket.socket:
    """A socket that listens; port 0 is any free one. Raises `ConfigError`."""
    try:
        return _listening(host, port)
    except OSError as error:
        reason = f"cannot listen on {host}: {error.strerror}"
        raise ConfigError(f"{key} = {port}: {reason}; expected a free port") from None


def first_free(host: str, ports: Sequence[int], *, key: str) -> socket.socket:
    """A socket that listens on the first of the ports that is not taken. Raises `ConfigError`."""
    for port in ports:
        try:
            return _listening(host, port)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise ConfigError(f"cannot listen on {host}, port {port}: {error.strerror}") from None
    raise ConfigError(f"{key}: the ports {ports[0]} to {ports[-1]} of {host} are taken; expected {key} = a free port")


def why_not(host: str, port: int) -> str:
    """Why nobody can listen there; empty where somebody can."""
    try:
        _listening(host, port).close()
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol named, asyncio sends small packets at once; else each answer waits 40 ms for the one before it.
    opened = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind((host, port))
        opened.listen(BACKLOG)
    except OSError:
        opened.close()
        raise
    return opened
