"""A container's health check: whether the service in it has a recent heartbeat in Redis.

python healthcheck.py RUN KIND, with the address in TPPO_REDIS_URL
"""

import asyncio
import os
import socket
import sys

from tppo.process.presence import present
from tppo.security.redis_address import REDIS_URL_VARIABLE
from tppo.streams.connection import connect


async def is_alive(url: str, run: str, kind: str) -> bool:
    """Whether a service of that kind on this host has a recent heartbeat."""
    async with await connect(url) as client:
        presences = await present(client, run)
    return any(one.kind == kind and one.host == socket.gethostname() for one in presences)


if __name__ == "__main__":
    run, kind = sys.argv[1:]
    raise SystemExit(0 if asyncio.run(is_alive(os.environ[REDIS_URL_VARIABLE], run, kind)) else 1)
