"""Where a process finds the run's Redis: in its configuration, its environment, or the folder of a run on this machine.

The address holds the password, so `tppo run` hands it to its processes through the environment: every user of a machine
can read command lines.
"""

from urllib.parse import quote, urlsplit

from tppo.config import Config, ConfigError
from tppo.run_folder.paths import RunPaths
from tppo.security.environment import secret_from_environment
from tppo.security.private_files import read_secret

REDIS_URL_VARIABLE = "TPPO_REDIS_URL"
JOIN_REDIS_URL_VARIABLE = "TPPO_JOIN_REDIS_URL"
"""For the dashboard: the address as generators that join are given it, with their user and password."""
REDIS_PASSWORD_VARIABLE, JOIN_REDIS_PASSWORD_VARIABLE = "TPPO_REDIS_PASSWORD", "TPPO_JOIN_REDIS_PASSWORD"
"""For an address without a password: so that the address may be seen, and the password comes as a secret of its own."""


def redis_url_from_environment() -> str:
    """With the password where there is one; empty where there is no address. Raises `ConfigError`."""
    return _address(REDIS_URL_VARIABLE, REDIS_PASSWORD_VARIABLE)


def join_redis_url_from_environment() -> str:
    """The same for generators that join."""
    return _address(JOIN_REDIS_URL_VARIABLE, JOIN_REDIS_PASSWORD_VARIABLE)


def _address(url_variable: str, password_variable: str) -> str:
    url, password = secret_from_environment(url_variable), secret_from_environment(password_variable)
    parts = urlsplit(url)
    if not password or not parts.hostname or parts.password:
        return url
    host = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=f"{parts.username or ''}:{quote(password, safe='')}@{host}").geturl()


def given_redis(config: Config) -> str:
    """The server that a user has named in the configuration or the environment; empty: none."""
    return config.redis.url or redis_url_from_environment()


def with_redis(config: Config) -> Config:
    """The configuration with the server's address filled in. Raises `ConfigError` before anything heavy is loaded."""
    if config.redis.url:
        return config
    kept = RunPaths(config.run.path).redis_url
    url = given_redis(config) or read_secret(kept)
    if not url:
        raise ConfigError(
            "redis.url is empty; expected the address of a Redis server, as in --redis redis://HOST:6379 or "
            f"{REDIS_URL_VARIABLE}, or a run that `tppo run` keeps going ({kept} has its address)"
        )
    return config.model_copy(update={"redis": config.redis.model_copy(update={"url": url})})
