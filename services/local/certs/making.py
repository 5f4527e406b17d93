"""The files of `tppo certs`: an authority's, and those of each host."""

import datetime
import ipaddress
import os
import re
from collections.abc import Iterable
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tppo.config import ConfigError
from tppo.security.private_files import private_folder, write_secret

AUTHORITY = "ca"
HOST = re.compile(r"[A-Za-z0-9:][A-Za-z0-9.:_-]{0,252}")
LOOPBACK = ("localhost", "127.0.0.1", "::1")
AUTHORITY_DAYS = 825


def make(folder: Path, hosts: Iterable[str], *, days: int) -> None:
    """The files. Raises `ConfigError` before any is written, and OSError."""
    for host in hosts:
        if not HOST.fullmatch(host) or host == AUTHORITY:
            raise ConfigError(f"{host!r}: expected a host's name or address, other than {AUTHORITY!r}")
    private_folder(folder)
    if not key_file(folder, AUTHORITY).exists():
        _make_authority(folder, days=AUTHORITY_DAYS)
    authority, key = _authority(folder)
    for host in hosts:
        _make_certificate(folder, host, authority, key, days=days)


def _make_authority(folder: Path, *, days: int) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name("T-PPO development authority")
    certificate = (
        _begun(name, name, key.public_key(), days=days)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    _write(folder, AUTHORITY, certificate, key)


def _make_certificate(
    folder: Path, host: str, authority: x509.Certificate, authority_key: ec.EllipticCurvePrivateKey, *, days: int
) -> None:
    """For both sides of a call, by the host's own name and from the machine itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    names = x509.SubjectAlternativeName([_alternative(name) for name in dict.fromkeys((host, *LOOPBACK))])
    purposes = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key())
    certificate = (
        _begun(_name(host), authority.subject, key.public_key(), days=days)
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(purposes, critical=False)
        .add_extension(issuer, critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    _write(folder, host, certificate, key)


def _begun(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, *, days: int
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))  # clocks of hosts differ
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:64])])


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _authority(folder: Path) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    path = key_file(folder, AUTHORITY)
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
        certificate = x509.load_pem_x509_certificate(certificate_file(folder, AUTHORITY).read_bytes())
    except ValueError as error:
        raise ConfigError(f"{path}: {error}; expected an authority that `tppo certs` has made") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigError(f"{path}: expected a key of an elliptic curve, as `tppo certs` makes it")
    return certificate, key


def _write(folder: Path, name: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
    """The key first, for its owner alone; a certificate may be read by everybody."""
    pkcs8, no_password = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    write_secret(key_file(folder, name), key.private_bytes(serialization.Encoding.PEM, pkcs8, no_password).decode())
    path = certificate_file(folder, name)
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    os.chmod(path, 0o644)


def key_file(folder: Path, name: str) -> Path:
    """For its owner alone."""
    return folder / f"{name}.key"


def certificate_file(folder: Path, name: str) -> Path:
    """For everybody."""
    return folder / f"{name}.pem"
