"""`tppo secrets CONFIG --redis URL --out FOLDER`: what each role is handed where a run is on several machines.

A file of environment variables for each role, with nothing of another's; the users for the server; the token of those
who scrape. `tppo run` needs none of it: it makes the same for its own processes.
"""

import argparse
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from services.local.processes import SECRETS_OF_ROLES
from tppo.config import ConfigError, add_config_arguments, config_from_arguments
from tppo.security.authentication import METRICS_TOKEN_VARIABLE, Service
from tppo.security.envelope import Writer
from tppo.security.private_files import new_secret, private_folder, write_secret
from tppo.security.record_keys import RECORD_SECRET_VARIABLE, role_key
from tppo.security.redis_address import JOIN_REDIS_URL_VARIABLE, REDIS_URL_VARIABLE
from tppo.security.redis_users import RedisUser, acl_lines, url_of_user

USERS = "users.acl"
METRICS = "metrics_token"


def main(argv: Sequence[str]) -> int:
    """0 when every file is there; none is ever replaced."""
    parser = argparse.ArgumentParser(
        prog="tppo secrets", description="Make the secrets of a run on several machines, a file for each role."
    )
    add_config_arguments(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where the files go")
    arguments = parser.parse_args(argv)
    url, config = _server(arguments.redis), config_from_arguments(arguments)
    files = contents(config.run.name, url)
    folder: Path = arguments.out
    if present := [name for name in files if (folder / name).exists()]:
        raise ConfigError(f"--out {folder}: {present[0]} is there; expected a folder without secrets")
    try:
        private_folder(folder)
        for name, text in files.items():
            write_secret(folder / name, text)
    except OSError as error:
        raise ConfigError(f"--out {folder}: {error.strerror}; expected a folder that can be written to") from None
    for name in files:
        print(folder / name)
    return 0


def contents(run: str, url: str) -> dict[str, str]:
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
