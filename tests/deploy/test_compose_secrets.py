"""What `docker-compose.yml` keeps secret stands on no command line, where every user of the machine could read it."""

import asyncio
import os
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.processes import QUICKSTART
from tests.support.redis_server import StartRedis
from tppo.process.presence import Presence, announce
from tppo.streams import StreamsError
from tppo.streams.connection import RedisClient, connect

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES = ("generation", "generation-gpu", "reward", "learner", "learner-gpu", "dashboard", "summary")


def test_secrets_are_files_and_stand_in_no_environment_and_on_no_command_line() -> None:
    assert set(COMPOSE["secrets"]) == {"token", "metrics_token"}
    assert all(set(secret) == {"file"} for secret in COMPOSE["secrets"].values())
    assert "TPPO_TOKEN}" not in yaml.safe_dump(COMPOSE)
    assert "TPPO_TOKEN:" not in yaml.safe_dump(COMPOSE)


@pytest.mark.parametrize("service", SERVICES)
def test_services_find_their_secrets_in_the_files_that_they_are_given(service: str) -> None:
    definition = COMPOSE["services"][service]
    files = {name: path for name, path in definition["environment"].items() if name.endswith("_FILE")}

    assert files == {
        "TPPO_TOKEN_FILE": "/run/secrets/token",
        "TPPO_METRICS_TOKEN_FILE": "/run/secrets/metrics_token",
        "TPPO_REDIS_PASSWORD_FILE": "/run/secrets/token",
    }
    assert definition["environment"]["TPPO_REDIS_URL"] == "redis://redis:6379/0"
    assert {Path(path).name for path in files.values()} <= set(definition["secrets"])


def command_line(process_id: int) -> str:
    return Path(f"/proc/{process_id}/cmdline").read_text()


async def test_the_server_reads_its_password_from_a_file_that_its_command_writes(
    start_redis: StartRedis, tmp_path: Path
) -> None:
    shell, option, script = COMPOSE["services"]["redis"]["command"]
    assert (shell, option) == ("sh", "-c")
    writing, starting = script.replace("$$", "$").split(" && exec ")
    (tmp_path / "token").write_text("the token\n")
    writing = writing.replace("/tmp/", f"{tmp_path}/").replace("/run/secrets/token", f"{tmp_path}/token")
    written = await asyncio.create_subprocess_exec(shell, option, writing)
    assert await written.wait() == 0
    assert starting.split() == ["redis-server", "/etc/tppo/redis.conf", "--include", "/tmp/password.conf"]

    with start_redis(tmp_path / "redis", "--include", f"{tmp_path}/password.conf") as server:
        assert "the token" not in command_line(server.process.pid)
        async with await connect(f"redis://:the%20token@127.0.0.1:{server.port}/0") as client:
            assert await client.ping()
        with pytest.raises(StreamsError):
            await connect(server.url)


@pytest.mark.parametrize(("kind", "exit_code"), [("learner", 0), ("reward", 1)])
async def test_a_health_check_finds_the_address_in_the_environment(
    redis_client: RedisClient, redis_url: str, run_name: str, kind: str, exit_code: int, tmp_path: Path
) -> None:
    program, check, path, checked = COMPOSE["services"][kind]["healthcheck"]["test"][1:]
    assert (program, check, checked) == ("python", "/app/deploy/healthcheck.py", kind)
    assert path == "/task/${TPPO_CONFIG:-quickstart.toml}"
    (tmp_path / "run.toml").write_text(QUICKSTART.read_text().replace('name = "quickstart"', f'name = "{run_name}"'))
    here = Presence("l", "learner", address="", started_at=0.0, pid=1, host=socket.gethostname())

    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(ROOT / "deploy" / "healthcheck.py"), str(tmp_path / "run.toml"), kind),
        env=os.environ | {"TPPO_REDIS_URL": redis_url},
    )
    ended = asyncio.create_task(process.wait())
    while not ended.done():
        await announce(redis_client, run_name, here)  # one heartbeat might be too old for a slow start of Python
        await asyncio.wait([ended], timeout=1.0)

    assert await ended == exit_code
