"""The dashboard as a process of its own, beside a real server, beside none, and without a run."""

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.dashboard.__main__ import _until_served
from tests.dashboard.run_folders import complete_run, event, requested
from tppo.presence import present
from tppo.streams import connect

pytestmark = pytest.mark.process

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


async def status_with_services(client: httpx.AsyncClient) -> dict[str, Any]:
    """The first status with a process in it; the dashboard reads Redis once a second."""
    async with asyncio.timeout(30):
        while True:
            status: dict[str, Any] = (await client.get("/api/v1/status")).raise_for_status().json()
            if status["services"]:
                return status
            await asyncio.sleep(0.1)


async def test_it_announces_itself_answers_and_shuts_down(config: Path, redis_url: str, run_name: str) -> None:
    process = await dashboard(config, redis_url)
    url = await announced_url(redis_url, run_name)

    async with httpx.AsyncClient(base_url=url) as client:
        status = await status_with_services(client)
    process.send_signal(signal.SIGTERM)
    await process.communicate()

    assert [one["name"] for one in status["services"]] == ["dashboard"]
    assert (status["state"], status["has_control"]) == ("starting", True)
    assert process.returncode == 0


async def test_beyond_the_loopback_it_refuses_to_start_without_a_token(config: Path, redis_url: str) -> None:
    process = await dashboard(config, redis_url, "dashboard.host=0.0.0.0")

    _, complaint = await process.communicate()

    assert process.returncode == 2
    assert "host = '0.0.0.0' is reachable from other machines" in complaint.decode()


@asynccontextmanager
async def started(*arguments: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """A dashboard and its address, from its log."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tppo", "dashboard", *arguments),
        env={**os.environ, "TPPO_TOKEN": ""},
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr
    try:
        async with asyncio.timeout(60):
            while not (found := re.search(rb"dashboard at (http://\S+)", await process.stderr.readline())):
                assert not process.stderr.at_eof()
        yield process, found[1].decode()
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def ended(process: asyncio.subprocess.Process) -> int:
    """The exit code after SIGTERM."""
    process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(30):
        return await process.wait()


async def test_a_folder_of_runs_is_browsed_without_a_run(tmp_path: Path) -> None:
    complete_run(tmp_path / "quick")

    async with started(str(tmp_path), "--port", "0") as (process, url), httpx.AsyncClient(base_url=url) as client:
        runs = (await client.get("/api/v1/runs")).json()
        status = (await client.get("/api/v1/status")).json()
        code = await ended(process)

    assert ([one["name"] for one in runs["items"]], status["state"], code) == (["quick"], "finished", 0)


async def test_without_redis_it_starts_and_serves_the_folder(config: Path, tmp_path: Path, run_name: str) -> None:
    run = complete_run(tmp_path / run_name)
    arguments = [str(config), "--redis", "redis://127.0.0.1:1", "--set=dashboard.port=0"]

    async with started(*arguments) as (process, address):
        url, _, token = address.partition("/#token=")
        async with httpx.AsyncClient(base_url=url) as client:
            status = (await client.get("/api/v1/status")).json()
        code = await ended(process)

    assert (status["state"], status["step"], status["has_control"], code) == ("redis_gone", 3, False, 0)
    assert (run.path / "dashboard.token").read_text() == f"{token}\n"


async def test_the_stream_sends_new_lines_and_does_not_hold_up_the_shutdown(tmp_path: Path) -> None:
    run = complete_run(tmp_path / "quick")

    async with started(str(tmp_path), "--port", "0") as (process, url), httpx.AsyncClient(base_url=url) as client:
        await client.get("/api/v1/status")
        async with client.stream("GET", "/api/v1/stream") as answer, asyncio.timeout(20):
            lines = answer.aiter_lines()
            while (await anext(lines)) != "event: status":
                pass
            run.journal(requested("new"), event("written while it listened"))
            while not (text := await anext(lines)).startswith("data:") or "written" not in text:
                pass
            code = await ended(process)

    assert (answer.headers["content-type"], code) == ("text/event-stream; charset=utf-8", 0)


async def test_a_loop_that_ends_takes_the_server_down_with_its_error() -> None:
    async def breaks() -> None:
        raise OSError("the loop broke")

    with pytest.raises(OSError, match="the loop broke"):
        await _until_served(asyncio.sleep(60), [breaks()])


async def test_a_loop_that_ends_quietly_is_an_error_too() -> None:
    with pytest.raises(RuntimeError, match="a loop of the dashboard has ended"):
        await _until_served(asyncio.sleep(60), [asyncio.sleep(0)])
