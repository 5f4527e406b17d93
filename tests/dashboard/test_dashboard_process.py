"""The dashboard as a process of its own, beside a real server."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import redis.asyncio
from redis.exceptions import RedisError

from services.local.redis_server import RedisServer, find_binary, free_port
from tppo.presence import present
from tppo.streams import connect

CONFIG = """
[run]
name = "quick"
directory = "{directory}"
[model]
path = "model"
[data]
train_files = ["train.jsonl"]
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "run.toml"
    path.write_text(CONFIG.format(directory=tmp_path))
    return path


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[RedisServer]:
    server = RedisServer(binary=find_binary(search_path=""), port=free_port(), folder=tmp_path, memory_limit_mb=64)
    process = await asyncio.create_subprocess_exec(*server.command(), stdout=asyncio.subprocess.DEVNULL)
    yield server
    process.terminate()
    await process.wait()


async def dashboard(config: Path, server: RedisServer, *overrides: str, token: str = "") -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tppo", "dashboard", str(config), "--redis", server.url, "--set=dashboard.port=0"),
        *(f"--set={override}" for override in overrides),
        env={**os.environ, "TPPO_TOKEN": token},
        stderr=asyncio.subprocess.PIPE,
    )


async def connected(url: str) -> redis.asyncio.Redis:
    """A client of a server that is only just coming up."""
    async with asyncio.timeout(30):
        while True:
            try:
                return await connect(url)
            except RedisError:
                await asyncio.sleep(0.01)


async def announced_url(server: RedisServer) -> str:
    """Where the dashboard says that it listens."""
    async with asyncio.timeout(30), await connected(server.url) as client:
        while not (presences := await present(client, "quick")):  # noqa: ASYNC110 (another process announces itself)
            await asyncio.sleep(0.01)
        return str(presences[0].status["url"])


async def test_it_announces_itself_answers_and_ends_in_order(config: Path, server: RedisServer) -> None:
    process = await dashboard(config, server)
    url = await announced_url(server)

    async with httpx.AsyncClient(base_url=url) as client:
        status = (await client.get("/api/v1/status")).raise_for_status().json()
    process.send_signal(signal.SIGTERM)
    await process.communicate()

    assert [one["name"] for one in status["services"]] == ["dashboard"]
    assert status["state"] == "starting"
    assert process.returncode == 0


async def test_beyond_the_loopback_it_refuses_to_start_without_a_token(config: Path, server: RedisServer) -> None:
    process = await dashboard(config, server, "dashboard.host=0.0.0.0")

    _, complaint = await process.communicate()

    assert process.returncode == 2
    assert "host = '0.0.0.0' is reachable from other machines" in complaint.decode()
