"""The keys by which roles seal their records: where a process finds its own, and the learner all of them.

A run has a secret, from which each role's key is derived one-way: a process that is handed the key of its role can
compute no other. The secret is in the run's folder, for its owner alone, as a replay verifies by it. Where the
processes have an operator's secret in common (`TPPO_TOKEN`), that of the run is derived from it. A run that is resumed
with another one keeps both: records of its past stay what they were.
"""

import hmac
import os
from pathlib import Path

from tppo.config import ConfigError
from tppo.config.schema import RunSection
from tppo.run_folder.paths import RunPaths
from tppo.security.authentication import TOKEN_VARIABLE
from tppo.security.envelope import FORMAT, SealedRecords, Sealer, Writer
from tppo.security.environment import secret_from_environment
from tppo.security.private_files import kept_secret, read_secret, write_secret

RECORD_SECRET_VARIABLE = "TPPO_RECORD_SECRET"


def sealer(run: RunSection, role: Writer) -> Sealer:
    """Of this process. Raises `ConfigError`."""
    return Sealer(role, record_key(run, role))


def record_key(run: RunSection, role: Writer) -> str:
    """The role's: from the environment, else of the run's newest secret. Raises `ConfigError`."""
    if given := secret_from_environment(role.variable):
        return given
    kept = _kept(run.path)
    secret = kept[-1] if kept else _given_secret(run.name)
    return role_key(secret or record_secrets(run)[-1], role)


def record_secrets(run: RunSection) -> list[str]:
    """The run's, the newest last; one of the environment is kept, and the first is made. Raises `ConfigError`."""
    path, kept, given = RunPaths(run.path).record_secret, _kept(run.path), _given_secret(run.name)
    try:
        if given and given not in kept:
            kept.append(given)
            write_secret(path, "\n".join(kept))
        return kept or [kept_secret(path)]
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot keep the secret by which records are sealed: {error.strerror}; expected a folder that "
            f"can be written to, or the secret in {RECORD_SECRET_VARIABLE} or {TOKEN_VARIABLE}"
        ) from None


def sealed_records(secrets: list[str]) -> SealedRecords:
    """What verifies the records of a run with these secrets."""
    return SealedRecords({role: [role_key(secret, role) for secret in secrets] for role in Writer})


def kept_records(folder: Path) -> SealedRecords | None:
    """What verifies the archived records of a run; None where its folder has no secret. Raises `ConfigError`."""
    path = RunPaths(folder).record_secret
    if not path.exists():
        return None
    return sealed_records(_read(path))


def role_key(secret: str, role: Writer) -> str:
    """One-way, so that a role's key opens neither the secret nor another role."""
    return hmac.new(secret.encode(), f"records {FORMAT} {role}".encode(), "sha256").hexdigest()


def _given_secret(run: str) -> str:
    """The environment's, or the one derived from the operator's; empty where neither is set."""
    if given := secret_from_environment(RECORD_SECRET_VARIABLE):
        return given
    secret = secret_from_environment(TOKEN_VARIABLE)
    return hmac.new(secret.encode(), f"records of {run}".encode(), "sha256").hexdigest() if secret else ""


def _kept(folder: Path) -> list[str]:
    """Those in the run's folder. Raises `ConfigError` where it has records, and no secret to verify them by."""
    paths = RunPaths(folder)
    if paths.record_secret.exists():
        return _read(paths.record_secret)
    if any(paths.inbox.glob("*.log")):
        raise ConfigError(
            f"{paths.record_secret}: no such file, and {paths.inbox} holds records; expected the file from the same "
            "backup; a run of a release whose records had no envelope ends with that release: use another run.name"
        )
    return []


def _read(path: Path) -> list[str]:
    found = read_secret(path).split()
    if not found:
        raise ConfigError(
            f"{path}: expected a file of this user's (UID {os.getuid()}) that nobody else can read (mode 0600), with "
            "the secret by which the run's records are verified"
        )
    return found
