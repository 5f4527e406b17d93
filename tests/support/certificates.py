"""Certificates for tests of mutual TLS, made by openssl."""

import subprocess
from pathlib import Path

from tppo.security.environment import TLS_VARIABLES


def openssl(*arguments: object) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


def certified(folder: Path) -> dict[str, str]:
    """An authority in the folder and a certificate for localhost that it signed, as the environment names them."""
    folder.mkdir()
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", 1)
    names = ("-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1")
    ca, ca_key, one, key = (folder / name for name in ("ca.pem", "ca.key", "one.pem", "one.key"))
    openssl("req", "-x509", *curve, "-subj", "/CN=authority", "-keyout", ca_key, "-out", ca)
    signed = ("-CA", ca, "-CAkey", ca_key)
    openssl("req", "-x509", *curve, *signed, "-subj", "/CN=localhost", *names, "-keyout", key, "-out", one)
    return dict(zip(TLS_VARIABLES, map(str, (ca, one, key)), strict=True))
