"""Where a process finds the run's Redis: in its configuration, its environment, or the folder of a run on this machine.

The address holds the password, so `tppo run` hands it to its processes through the environment: every user of a machine
can read command lines.
"""

import os

from tppo.config import Config, ConfigError
from tppo.run_folder.paths import RunPaths
from tppo.security.private_files import read_secret

REDIS_URL_VARIABLE = "TPPO_REDIS_URL"


def with_redis(config: Config) -> Config:
    """The configuration with the server's address filled in. Raises `ConfigError` before anything heavy is loaded."""
    if config.redis.url:
        return config
    kept = RunPaths(config.run.path).redis_url
    url = os.environ.get(REDIS_URL_VARIABLE, "").strip() or read_secret(kept)
    if not url:
        raise ConfigError(
            "redis.url is empty; expected the address of a Redis server, as in --redis redis://HOST:6379 or "
            f"{REDIS_URL_VARIABLE}, or a run that `tppo run` keeps going ({kept} has its address)"
        )
    return config.model_copy(update={"redis": config.redis.model_copy(update={"url": url})})
