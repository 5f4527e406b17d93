"""Mutual TLS between our processes, when the environment names its three PEM files: both sides show a certificate.

TPPO_TLS_CA           the authority that signed everybody's certificates
TPPO_TLS_CERTIFICATE  this process's own certificate, which names the host by which others reach it
TPPO_TLS_KEY          its private key
"""

import os
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import grpc
import grpc.aio

from tppo.config import ConfigError
from tppo.security.authentication import require_token_beyond_loopback
from tppo.security.environment import TLS_VARIABLES

WEB_VARIABLES = ("TPPO_WEB_CERTIFICATE", "TPPO_WEB_KEY")
"""Paths of the PEM files with which the dashboard and the endpoints serve HTTPS; browsers have no certificates."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """What the three files hold."""

    authority: bytes
    certificate: bytes
    key: bytes

    @classmethod
    def from_environment(cls) -> Self | None:
        """None when no variable is set. Raises `ConfigError` when one is missing or its file is no PEM."""
        if not any(os.environ.get(name) for name in TLS_VARIABLES):
            return None
        return cls(*map(_pem, TLS_VARIABLES))

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


@dataclass(frozen=True, slots=True)
class WebCertificate:
    """Paths of a certificate, with those between it and its authority, and of its private key."""

    certificate: str
    key: str

    @classmethod
    def from_environment(cls) -> Self | None:
        """None when no variable is set: plain HTTP. Raises `ConfigError` for files that do not belong together."""
        paths = [os.environ.get(variable, "") for variable in WEB_VARIABLES]
        if not any(paths):
            return None
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(*paths)
        except (OSError, ValueError) as error:  # SSLError is an OSError
            named = ", ".join(f"{variable} = {path!r}" for variable, path in zip(WEB_VARIABLES, paths, strict=True))
            raise ConfigError(f"{named}: {error}; expected PEM files of a certificate and of its key") from None
        return cls(*paths)


def web_scheme() -> str:
    """Of the addresses at which this process's web server is reached."""
    return "http" if WebCertificate.from_environment() is None else "https"


def web_client_context() -> ssl.SSLContext:
    """Of a client of HTTPS: it trusts the authority of `TPPO_TLS_CA`, or, without that, the system's. `ConfigError`."""
    authority = os.environ.get(TLS_VARIABLES[0]) or None
    try:
        return ssl.create_default_context(cafile=authority)
    except OSError as error:
        raise ConfigError(f"{TLS_VARIABLES[0]} = {authority!r}: {error}; expected a PEM file") from None


def _pem(variable: str) -> bytes:
    path = os.environ.get(variable, "")
    try:
        content = Path(path).read_bytes() if path else b""
    except OSError as error:
        raise ConfigError(f"{variable} = {path!r}: {error.strerror}; expected a PEM file") from None
    if b"-----BEGIN " not in content:
        raise ConfigError(f"{variable} = {path!r}: expected a PEM file; mutual TLS takes {', '.join(TLS_VARIABLES)}")
    return content
