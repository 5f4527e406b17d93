"""Markers by folder and by fixture; a real Redis-compatible server for the tests that need one."""

import os
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from services.local.redis_server import find_binary
from tests.support.redis_server import StartRedis, running_redis
from tests.support.waiting import DEADLINE_SECONDS
from tppo.config import ConfigError
from tppo.streams.connection import RedisClient, connect

MARKS_OF_FOLDERS = {
    "browser": ("browser", "process", "slow"),
    "end_to_end": ("process", "slow"),
    "faults": ("process", "slow"),
}
MARKS_OF_FIXTURES = {"redis_url": "redis", "start_redis": "redis", "node_example": "process"}
PROCESS_TEST_SECONDS = 6 * DEADLINE_SECONDS

SETTINGS_OF_A_SHELL = ("HF_", "HUGGING_FACE_", "TRANSFORMERS_", "TPPO_", "WANDB_", "REDIS_")
KEPT_SETTINGS = ("TPPO_TEST_",)

for name in list(os.environ):  # what a test's processes do must not depend on the shell that started the tests
    if name.lower().endswith("_proxy") or (name.startswith(SETTINGS_OF_A_SHELL) and not name.startswith(KEPT_SETTINGS)):
        del os.environ[name]
os.environ["HF_HUB_OFFLINE"] = "1"  # no test needs the network
os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: tiny models gain nothing from threads
settings.register_profile("tppo", deadline=None)  # a busy machine is no failure
settings.load_profile("tppo")


@pytest.fixture(autouse=True)
def denormals_are_kept_again() -> Iterator[None]:
    """What a test calls may flush them, as a run's processes do; hypothesis refuses to draw numbers without them."""
    yield
    torch.set_flush_denormal(False)


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
    with start(tmp_path_factory.mktemp("redis")) as server:
        yield server.url


@pytest.fixture(scope="session")
def start_redis() -> StartRedis:
    """Starts a server with its data in a folder; leaving the context kills it (SIGKILL)."""
    try:
        find_binary()
    except ConfigError as error:
        report = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
        report(f"{error}; or set TPPO_TEST_REDIS_URL")
    return running_redis


@pytest.fixture
async def redis_client(redis_url: str) -> AsyncIterator[RedisClient]:
    client = await connect(redis_url)
    yield client
    await client.aclose()


@pytest.fixture
def run_name() -> str:
    """No two tests share keys."""
    return f"test-{uuid.uuid4().hex}"
