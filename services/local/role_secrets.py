"""`tppo secrets`: what each role is handed where the processes of a run are on several machines, or in containers.

`tppo secrets CONFIG --redis URL --out FOLDER`, for machines: a file of environment variables for each role, with
nothing of another's; the users for the server; the token of those who scrape.

`tppo secrets --compose --out FOLDER`, for docker-compose.yml, whatever it trains: a file for each secret, of which
every container is given those of its role; the users for its Redis.

`tppo run` needs none of it: it makes the same for its own processes.
"""

import argparse
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from services.local.processes import SECRETS_OF_ROLES
from tppo.config import ConfigError, add_config_arguments, config_from_arguments
from tppo.security.authentication import METRICS_TOKEN_VARIABLE, Service
from tppo.security.envelope import Writer
from tppo.security.private_files import OTHERS, new_secret, private_folder, write_secret
from tppo.security.record_keys import RECORD_SECRET_VARIABLE, role_key
from tppo.security.redis_address import JOIN_REDIS_URL_VARIABLE, REDIS_URL_VARIABLE
from tppo.security.redis_users import EVERY_RUN, RedisUser, acl_lines, administrator_line, url_of_user

USERS = "users.acl"
METRICS = "metrics_token"
SHARED_BY_ALL = "token"
"""Of a release whose containers had one secret in common."""


def main(argv: Sequence[str]) -> int:
    """0 when every file is there; none is ever replaced."""
    parser = argparse.ArgumentParser(
        prog="tppo secrets", description="Make the secrets of a run on several machines, or of containers."
    )
    add_config_arguments(parser, is_optional=True)
    parser.add_argument("--compose", action="store_true", help="those of docker-compose.yml, for every run there")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where the files go")
    arguments = parser.parse_args(argv)
    if arguments.compose == bool(arguments.config) or (arguments.compose and (arguments.redis or arguments.overrides)):
        parser.error("expected the run's TOML file and --redis URL, or --compose and neither of them")
    if arguments.compose:
        # Each container has a user of its own, who reads the file as it is; the folder keeps this machine's users out.
        files, mode = of_containers(), 0o644
    else:
        url = _server(arguments.redis)
        files, mode = of_machines(config_from_arguments(arguments).run.name, url), 0o600
    _write(arguments.out, files, mode=mode)
    for name in files:
        print(arguments.out / name)
    return 0


def of_machines(run: str, url: str) -> dict[str, str]:
    """By file name; all secrets are new."""
    passwords = {user: new_secret() for user in RedisUser}
    environments = {user: _environment(run, url, user, passwords) for user in RedisUser}
    shared: dict[Service | Writer, str] = {service: new_secret() for service in Service}
    secret, metrics = new_secret(), new_secret()
    shared |= {role: role_key(secret, role) for role in Writer}
    for user, environment in environments.items():
        environment |= {one.variable: shared[one] for one in SECRETS_OF_ROLES[user]}
        environment[METRICS_TOKEN_VARIABLE] = metrics
    learner = {Service.LEARNER.variable: shared[Service.LEARNER], RECORD_SECRET_VARIABLE: secret}
    environments[RedisUser.LEARNER] |= learner
    files = {f"{user}.env": _lines(environment) for user, environment in environments.items()}
    return {**files, USERS: "\n".join(acl_lines(run, passwords)), METRICS: metrics}


def of_containers() -> dict[str, str]:
    """By file name; all secrets are new. A learner's other ranks are in its container, with a token of their own."""
    administrator, secret = new_secret(), new_secret()
    passwords = {user: new_secret() for user in RedisUser}
    return {
        USERS: "\n".join([administrator_line(administrator), *acl_lines(EVERY_RUN, passwords)]),
        "redis_password": administrator,
        **{f"{user}_redis_password": password for user, password in passwords.items()},
        **{f"{service}_token": new_secret() for service in Service if service is not Service.LEARNER},
        **{f"{role}_record_key": role_key(secret, role) for role in Writer if role is not Writer.LEARNER},
        "record_secret": secret,
        METRICS: new_secret(),
        "grafana_password": new_secret(),
    }


def _write(folder: Path, files: Mapping[str, str], *, mode: int) -> None:
    try:
        private_folder(folder)
        if (others := folder.stat().st_mode & OTHERS) and mode & OTHERS:
            raise ConfigError(f"--out {folder}: others may enter it (mode {others:03o} for them); expected chmod 700")
        _require_none(folder, files)
        for name, text in files.items():
            write_secret(folder / name, text, mode=mode)
    except OSError as error:
        raise ConfigError(
            f"--out {folder}: {error.strerror}; expected a folder that this user (UID {os.getuid()}) can write to, as "
            'yours is in a container by --user "$(id -u):$(id -g)"'
        ) from None


def _require_none(folder: Path, files: Mapping[str, str]) -> None:
    if (folder / SHARED_BY_ALL).exists():
        raise ConfigError(
            f"--out {folder}: {SHARED_BY_ALL} is the one secret that all containers had in common; expected another "
            "folder, or that file and metrics_token removed: each role has secrets of its own, and runs go on with them"
        )
    if present := [name for name in files if (folder / name).exists()]:
        raise ConfigError(f"--out {folder}: {present[0]} is there; expected a folder without secrets")


def _environment(run: str, url: str, user: RedisUser, passwords: Mapping[RedisUser, str]) -> dict[str, str]:
    own = {REDIS_URL_VARIABLE: url_of_user(url, run, user, passwords[user])}
    if user is not RedisUser.DASHBOARD:
        return own
    joining = RedisUser.GENERATION
    return {**own, JOIN_REDIS_URL_VARIABLE: url_of_user(url, run, joining, passwords[joining])}


def _lines(environment: Mapping[str, str]) -> str:
    """As shells, Docker and systemd read them alike: nothing in them needs a quote."""
    return "\n".join(f"{name}={value}" for name, value in environment.items())


def _server(url: str | None) -> str:
    expected = "expected the address of the run's Redis without user and password, as redis://HOST:6379/0 or rediss://"
    try:
        parts = urlsplit(url or "")
        is_plain = parts.scheme in ("redis", "rediss") and parts.hostname and "@" not in parts.netloc
    except ValueError:
        is_plain = False
    if not url or not is_plain or shlex.quote(url) != url:
        raise ConfigError(f"--redis {url or ''}: {expected}")
    return url
