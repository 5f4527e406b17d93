"""The examples of users' own reward functions, as processes, against a real server."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.reward.attaching import PATIENT, Server, a_server

EXAMPLES = Path(__file__).parents[2] / "examples/custom_reward"
REPOSITORY = Path(__file__).parents[2]


@asynccontextmanager
async def a_process(*command: str) -> AsyncIterator[None]:
    environment = {**os.environ, "TPPO_PROTO": str(REPOSITORY / "proto"), "PYTHONPATH": str(REPOSITORY)}
    process = await asyncio.create_subprocess_exec(*command, env=environment)
    try:
        yield
    finally:
        process.kill()
        await process.wait()


async def scores(server: Server) -> list[object]:
    return await asyncio.gather(*(server.score("a", text) for text in ("it is 4", "it is 5", "4 👍")))


async def test_the_python_example_scores_for_a_run() -> None:
    async with a_server() as server, a_process(sys.executable, str(EXAMPLES / "python/mine.py"), server.address):
        assert await scores(server) == [1.0, 0.0, 1.0]


async def test_the_node_example_scores_for_a_run(node_example: Path) -> None:
    async with a_server() as server, a_process("node", str(node_example / "mine.js"), server.address):
        assert await scores(server) == [1.0, 0.0, 1.0]


async def test_python_and_node_share_the_load(node_example: Path) -> None:
    python = (sys.executable, str(EXAMPLES / "python/mine.py"))
    async with a_server() as server, a_process("node", str(node_example / "mine.js"), server.address):
        async with a_process(*python, server.address):
            while len(attached(server)) < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            assert await asyncio.gather(*(server.score(str(index), "4") for index in range(100))) == [1.0] * 100
        assert await scores(server) == [1.0, 0.0, 1.0]


async def test_batched_and_asynchronous_functions_take_part_in_a_sum() -> None:
    section = PATIENT.model_copy(update={"functions": {"mine": '"grpc:judge" + "grpc:shortness"'}})
    async with (
        a_server(section) as server,
        a_process(sys.executable, str(EXAMPLES / "python/several.py"), server.address),
    ):
        polite, rude = await asyncio.gather(server.score("a", "4, please!"), server.score("b", "x" * 2000))
        nothing = await server.score("c", "")

    assert polite == pytest.approx(1.1 - 0.010)
    assert rude == -1.0
    assert nothing == ("ABSTAINED", "")


def attached(server: Server) -> list[object]:
    processes = server.parts.attached.status()["processes"]
    assert isinstance(processes, list)
    return processes


def test_the_node_packages_are_pinned() -> None:
    package = json.loads((EXAMPLES / "node/package.json").read_text())
    assert all(version[0].isdigit() for version in package["dependencies"].values())
