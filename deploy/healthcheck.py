"""A container's health check: whether the service in it has a recent heartbeat in Redis.

python healthcheck.py CONFIG KIND, with the address of Redis as its service finds it. Exit code 0: ready, it serves; 1:
not, or not yet; a service that has ended, or hangs, has no heartbeat. That it is alive the container's state says.
"""

import asyncio
import socket
import sys
from pathlib import Path

from tppo.config import load
from tppo.process.presence import present
from tppo.security.redis_address import with_redis
from tppo.streams.connection import connect


async def is_ready(url: str, run: str, kind: str) -> bool:
    """Whether a service of that kind on this host has a recent heartbeat."""
    async with await connect(url) as client:
        presences = await present(client, run)
    return any(one.kind == kind and one.host == socket.gethostname() for one in presences)


if __name__ == "__main__":
    config, kind = with_redis(load(Path(sys.argv[1]))), sys.argv[2]
    raise SystemExit(0 if asyncio.run(is_ready(config.redis.url, config.run.name, kind)) else 1)
