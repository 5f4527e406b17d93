"""What `docker-compose.yml` keeps secret stands on no command line, where every user of the machine could read it."""

import asyncio
import os
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.redis_server import StartRedis
from tppo.process.presence import Presence, announce
from tppo.streams import StreamsError
from tppo.streams.connection import RedisClient, connect

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SECRETS = ("TPPO_TOKEN", "TPPO_METRICS_TOKEN")
SEEN_BY_ALL = ("command", "entrypoint", "healthcheck", "build", "labels", "container_name", "hostname")


@pytest.mark.parametrize("service", COMPOSE["services"])
def test_no_secret_stands_on_a_command_line(service: str) -> None:
    shown = yaml.safe_dump({key: COMPOSE["services"][service].get(key) for key in SEEN_BY_ALL})

    assert [secret for secret in SECRETS if secret in shown] == []


@pytest.mark.parametrize("service", ["generation", "reward", "learner", "dashboard"])
def test_services_get_the_address_of_redis_with_its_password_from_the_environment(service: str) -> None:
    assert COMPOSE["services"][service]["environment"]["TPPO_REDIS_URL"] == "redis://:${TPPO_TOKEN}@redis:6379/0"


def command_line(process_id: int) -> str:
    return Path(f"/proc/{process_id}/cmdline").read_text()


async def test_the_server_reads_its_password_from_the_file_that_its_command_line_names(
    start_redis: StartRedis, tmp_path: Path
) -> None:
    (mounted,) = COMPOSE["services"]["redis"]["configs"]
    program, *options = COMPOSE["services"]["redis"]["command"]
    assert (program, options[-2:]) == ("redis-server", ["--include", mounted["target"]])
    password = tmp_path / "password.conf"
    content: str = COMPOSE["configs"][mounted["source"]]["content"]
    password.write_text(content.replace("${TPPO_TOKEN}", "the token"))

    with start_redis(tmp_path / "redis", "--include", str(password)) as server:
        assert "the token" not in command_line(server.process.pid)
        async with await connect(f"redis://:the%20token@127.0.0.1:{server.port}/0") as client:
            assert await client.ping()
        with pytest.raises(StreamsError):
            await connect(server.url)


@pytest.mark.parametrize(("kind", "exit_code"), [("learner", 0), ("reward", 1)])
async def test_a_health_check_finds_the_address_in_the_environment(
    redis_client: RedisClient, redis_url: str, run_name: str, kind: str, exit_code: int
) -> None:
    check = COMPOSE["services"][kind]["healthcheck"]["test"]
    assert check == ["CMD", "python", "deploy/healthcheck.py", "quickstart", kind]
    here = Presence("l", "learner", address="", started_at=0.0, pid=1, host=socket.gethostname())

    process = await asyncio.create_subprocess_exec(
        sys.executable, str(ROOT / check[2]), run_name, kind, env=os.environ | {"TPPO_REDIS_URL": redis_url}
    )
    ended = asyncio.create_task(process.wait())
    while not ended.done():
        await announce(redis_client, run_name, here)  # one heartbeat might be too old for a slow start of Python
        await asyncio.wait([ended], timeout=1.0)

    assert await ended == exit_code
