"""Mutual TLS between our processes, when the environment names its three PEM files: both sides show a certificate.

TPPO_TLS_CA           the authority that signed everybody's certificates
TPPO_TLS_CERTIFICATE  this process's own certificate, which names the host by which others reach it
TPPO_TLS_KEY          its private key
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import grpc
import grpc.aio

from tppo.config import ConfigError
from tppo.security.authentication import require_token_beyond_loopback

VARIABLES = ("TPPO_TLS_CA", "TPPO_TLS_CERTIFICATE", "TPPO_TLS_KEY")


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """What the three files hold."""

    authority: bytes
    certificate: bytes
    key: bytes

    @classmethod
    def from_environment(cls) -> Self | None:
        """None when no variable is set. Raises `ConfigError` when one is missing or its file is no PEM."""
        if not any(os.environ.get(name) for name in VARIABLES):
            return None
        return cls(*map(_pem, VARIABLES))

    def server_credentials(self) -> grpc.ServerCredentials:
        """Demands a certificate of the same authority from every caller."""
        return grpc.ssl_server_credentials([(self.key, self.certificate)], self.authority, require_client_auth=True)

    def channel_credentials(self) -> grpc.ChannelCredentials:
        """Shows this process's certificate, and demands the server's."""
        return grpc.ssl_channel_credentials(self.authority, self.key, self.certificate)


def channel(address: str, options: Sequence[tuple[str, Any]]) -> grpc.aio.Channel:
    """A channel as the environment says: encrypted, or plain."""
    files = TlsFiles.from_environment()
    if files is None:
        return grpc.aio.insecure_channel(address, options=options)
    return grpc.aio.secure_channel(address, files.channel_credentials(), options=options)


def require_tls_or_token(host: str, token: str, *, key: str = "host") -> None:
    """Refuse to serve gRPC where strangers can call with neither a certificate nor a token."""
    if TlsFiles.from_environment() is None:
        require_token_beyond_loopback(host, token, key=key)


def _pem(variable: str) -> bytes:
    path = os.environ.get(variable, "")
    try:
        content = Path(path).read_bytes() if path else b""
    except OSError as error:
        raise ConfigError(f"{variable} = {path!r}: {error.strerror}; expected a PEM file") from None
    if b"-----BEGIN " not in content:
        raise ConfigError(f"{variable} = {path!r}: expected a PEM file; mutual TLS takes {', '.join(VARIABLES)}")
    return content
