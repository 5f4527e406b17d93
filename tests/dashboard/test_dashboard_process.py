"""The dashboard as a process of its own, beside a real server."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import httpx
import pytest

from tppo.presence import present
from tppo.streams import connect

CONFIG = """
[run]
name = "{name}"
directory = "{directory}"
[model]
path = "model"
[data]
train_files = ["train.jsonl"]
"""


@pytest.fixture
def config(tmp_path: Path, run_name: str) -> Path:
    path = tmp_path / "run.toml"
    path.write_text(CONFIG.format(name=run_name, directory=tmp_path))
    return path


async def dashboard(config: Path, redis_url: str, *overrides: str, token: str = "") -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tppo", "dashboard", str(config), "--redis", redis_url, "--set=dashboard.port=0"),
        *(f"--set={override}" for override in overrides),
        env={**os.environ, "TPPO_TOKEN": token},
        stderr=asyncio.subprocess.PIPE,
    )


async def announced_url(redis_url: str, run: str) -> str:
    """Where the dashboard says that it listens."""
    async with asyncio.timeout(30), await connect(redis_url) as client:
        while not (presences := await present(client, run)):  # noqa: ASYNC110 (another process announces itself)
            await asyncio.sleep(0.01)
        return str(presences[0].status["url"])


async def test_it_announces_itself_answers_and_ends_in_order(config: Path, redis_url: str, run_name: str) -> None:
    process = await dashboard(config, redis_url)
    url = await announced_url(redis_url, run_name)

    async with httpx.AsyncClient(base_url=url) as client:
        status = (await client.get("/api/v1/status")).raise_for_status().json()
    process.send_signal(signal.SIGTERM)
    await process.communicate()

    assert [one["name"] for one in status["services"]] == ["dashboard"]
    assert status["state"] == "starting"
    assert process.returncode == 0


async def test_beyond_the_loopback_it_refuses_to_start_without_a_token(config: Path, redis_url: str) -> None:
    process = await dashboard(config, redis_url, "dashboard.host=0.0.0.0")

    _, complaint = await process.communicate()

    assert process.returncode == 2
    assert "host = '0.0.0.0' is reachable from other machines" in complaint.decode()
