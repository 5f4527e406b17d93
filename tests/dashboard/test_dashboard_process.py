"""The dashboard as a process of its own, beside a real server, beside none, and without a run."""

import asyncio
import os
import re
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from services.dashboard.build import until_served
from tests.dashboard.run_folders import complete_run, event, requested
from tests.support.processes import TPPO, a_process, terminated
from tests.support.streams import announced
from tests.support.waiting import DEADLINE_SECONDS, until_answered
from tppo.config.sections.services import DASHBOARD_PORTS
from tppo.process.listening import first_free, listener
from tppo.process.presence import announce, present, this_process
from tppo.process.web_server import QuietlyEndingServer, server_settings
from tppo.streams.connection import RedisClient

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


@asynccontextmanager
async def dashboard(*arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """`tppo dashboard` without a token of the environment's."""
    environment = {**os.environ, "TPPO_TOKEN": ""}
    command = (*TPPO, "dashboard", *arguments)
    async with a_process(*command, environment=environment, stderr=asyncio.subprocess.PIPE) as process:
        yield process


@asynccontextmanager
async def serving(*arguments: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """A dashboard and its address, from its log."""
    async with dashboard(*arguments) as process:
        assert process.stderr
        yield process, (await address_line(process.stderr))[1].decode()


async def address_line(log: asyncio.StreamReader) -> re.Match[bytes]:
    """The line that shows the address, which is its first group."""
    while not (found := re.search(rb".*dashboard at (http://\S+).*", await log.readline())):
        assert not log.at_eof()
    return found


async def test_it_announces_itself_answers_and_shuts_down(
    config: Path, redis_url: str, redis_client: RedisClient, run_name: str
) -> None:
    async with dashboard(str(config), "--redis", redis_url, "--set=dashboard.port=0") as process:
        url = str((await announced(redis_client, run_name, "dashboard")).status["url"])
        async with httpx.AsyncClient(base_url=url, timeout=DEADLINE_SECONDS) as client:

            async def status_of() -> dict[str, Any]:
                status: dict[str, Any] = (await client.get("/api/v1/status")).raise_for_status().json()
                return status

            status = await until_answered(status_of, "a status with a process", is_met=lambda one: one["services"])
        exit_code = await terminated(process)

    assert [one["name"] for one in status["services"]] == ["dashboard"]
    assert (status["state"], status["has_control"]) == ("starting", True)
    assert exit_code == 0


async def test_its_heartbeat_names_the_alerts(
    config: Path, tmp_path: Path, redis_url: str, redis_client: RedisClient, run_name: str
) -> None:
    complete_run(tmp_path / run_name)
    attached = {"offered_by_nobody": ["mine"]}
    reward = this_process("reward-0", "reward", address="127.0.0.1:50052", status={"attached": attached})

    async with dashboard(str(config), "--redis", redis_url, "--set=dashboard.port=0"):

        async def announced_alerts() -> list[dict[str, str]]:
            await announce(redis_client, run_name, reward)
            found = [one for one in await present(redis_client, run_name) if one.kind == "dashboard"]
            return [alert for one in found for alert in one.status["alerts"]]

        alerts = await until_answered(announced_alerts, "two alerts", is_met=lambda found: len(found) == 2)

    parked = "1 rollout is parked; most often: the engine failed."
    nobody = "Responses wait for grpc:mine, which no process offers; one may attach at 127.0.0.1:50052."
    assert alerts == [
        {"key": "parked:", "severity": "warning", "text": parked},
        {"key": "nobody:mine", "severity": "warning", "text": nobody},
    ]


async def test_beyond_the_loopback_it_refuses_to_start_without_a_token(config: Path, redis_url: str) -> None:
    async with dashboard(str(config), "--redis", redis_url, "--set=dashboard.host=0.0.0.0") as process:
        _, complaint = await process.communicate()

    assert process.returncode == 2
    assert "host = '0.0.0.0' is reachable from other machines" in complaint.decode()


async def test_a_folder_of_runs_is_browsed_without_a_run(tmp_path: Path) -> None:
    complete_run(tmp_path / "quick")

    async with (
        serving(str(tmp_path), "--port", "0") as (process, url),
        httpx.AsyncClient(base_url=url, timeout=DEADLINE_SECONDS) as client,
    ):
        runs = (await client.get("/api/v1/runs")).json()
        status = (await client.get("/api/v1/status")).json()
        code = await terminated(process)

    assert ([one["name"] for one in runs["items"]], status["state"], code) == (["quick"], "finished", 0)


async def test_without_redis_it_starts_and_serves_the_folder(config: Path, tmp_path: Path, run_name: str) -> None:
    run = complete_run(tmp_path / run_name)
    arguments = [str(config), "--redis", "redis://127.0.0.1:1", "--set=dashboard.port=0"]

    async with dashboard(*arguments) as process:
        assert process.stderr
        shown = await address_line(process.stderr)
        async with httpx.AsyncClient(base_url=shown[1].decode(), timeout=DEADLINE_SECONDS) as client:
            status = (await client.get("/api/v1/status")).json()
            token = (run.path / "dashboard.token").read_text().strip()
            steered = await client.post("/api/v1/control/pause", headers={"Authorization": f"Bearer {token}"})
        code = await terminated(process)
        log = (shown[0] + await process.stderr.read()).decode()

    assert (status["state"], status["step"], status["has_control"], code) == ("redis_gone", 3, False, 0)
    assert steered.status_code == 503
    assert token not in log
    assert f"(token: {run.path / 'dashboard.token'})" in log


async def test_the_stream_sends_new_lines_and_does_not_hold_up_the_shutdown(tmp_path: Path) -> None:
    run = complete_run(tmp_path / "quick")

    async with (
        serving(str(tmp_path), "--port", "0") as (process, url),
        httpx.AsyncClient(base_url=url, timeout=DEADLINE_SECONDS) as client,
    ):
        await client.get("/api/v1/status")
        async with client.stream("GET", "/api/v1/stream") as answer, asyncio.timeout(DEADLINE_SECONDS):
            lines = answer.aiter_lines()
            while (await anext(lines)) != "event: status":
                pass
            run.journal(requested("new"), event("written while it listened"))
            while not (text := await anext(lines)).startswith("data:") or "written" not in text:
                pass
            code = await terminated(process)

    assert (answer.headers["content-type"], code) == ("text/event-stream; charset=utf-8", 0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_at_its_end_it_completes_the_streams_and_logs_no_error(tmp_path: Path, number: signal.Signals) -> None:
    complete_run(tmp_path / "quick")

    async with (
        serving(str(tmp_path), "--port", "0") as (process, url),
        httpx.AsyncClient(base_url=url, timeout=DEADLINE_SECONDS) as client,
    ):
        await client.get("/api/v1/status")
        async with client.stream("GET", "/api/v1/stream") as answer:
            lines = answer.aiter_lines()
            await anext(lines)
            process.send_signal(number)
            remaining = [line async for line in lines]  # a stream that is cut off raises
        assert process.stderr is not None
        log = (await process.stderr.read()).decode()
        code = await process.wait()

    assert code == 0
    assert remaining[-1] == ""
    assert log == ""


async def test_a_signal_right_after_the_address_ends_it_in_order(tmp_path: Path) -> None:
    complete_run(tmp_path / "quick")

    async with serving(str(tmp_path), "--port", "0") as (process, _):
        code = await terminated(process)

    assert code == 0


async def test_a_server_that_was_stopped_before_it_began_ends_at_once() -> None:
    server = QuietlyEndingServer(server_settings(FastAPI()))
    server.stop()

    with listener("127.0.0.1", 0, key="port") as opened:
        async with asyncio.timeout(DEADLINE_SECONDS):
            await server.serve(sockets=[opened])

    assert server.should_exit


async def test_a_loop_that_ends_takes_the_server_down_with_its_error() -> None:
    async def breaks() -> None:
        raise OSError("the loop broke")

    with pytest.raises(OSError, match="the loop broke"):
        await until_served(asyncio.sleep(60), [breaks()])


async def test_a_loop_that_ends_quietly_is_an_error_too() -> None:
    with pytest.raises(RuntimeError, match="a loop of the dashboard has ended"):
        await until_served(asyncio.sleep(60), [asyncio.sleep(0)])


async def test_a_taken_default_port_makes_way_for_the_next_free_one(tmp_path: Path) -> None:
    complete_run(tmp_path / "quick")

    with first_free("127.0.0.1", DASHBOARD_PORTS, key="dashboard.port") as taken:
        first = taken.getsockname()[1]
        async with serving(str(tmp_path)) as (_, url):
            pass

    assert first < int(url.rpartition(":")[2]) < DASHBOARD_PORTS.stop
