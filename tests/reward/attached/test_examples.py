"""The examples of users' own reward functions, as processes, against a real server."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.reward.attached.attaching import SECTION, Server, a_server
from tests.support.certificates import certified
from tests.support.waiting import until
from tppo.rollout import RewardRequest
from tppo.security.authentication import Service, token_from_environment
from tppo.security.environment import TLS_VARIABLES

pytestmark = pytest.mark.process

EXAMPLES = Path(__file__).parents[3] / "examples/custom_reward"
REPOSITORY = Path(__file__).parents[3]
TOKEN = "a-token-of-some-length"
PROTO = {"TPPO_PROTO": str(REPOSITORY / "proto")}

RETURNED = """
const { serve } = require('./tppo_reward');
const VALUES = {
  'a number': 0.5, 'a boolean': true, 'a bigint': 2n, 'a text': '0.5', 'nan': NaN, 'nothing': null,
  'nothing in a table': { score: null }, 'no score': { style: 1 }, 'a component that is nan': { score: 1, style: NaN },
  'components': { score: 1, flag: true, count: 7n, note: 'fine', steps: [1], token_rewards: 1 },
};
serve(process.argv[2], { mine: { score: ({ response }) => VALUES[response] } });
"""
NODE_CASES = {
    "a number": ("SCORED", 0.5),
    "a boolean": ("SCORED", 1.0),
    "a bigint": ("SCORED", 2.0),
    "a text": ("FAILED", None),
    "nan": ("FAILED", None),
    "nothing": ("ABSTAINED", None),
    "nothing in a table": ("ABSTAINED", None),
    "no score": ("FAILED", None),
    "a component that is nan": ("FAILED", None),
    "components": ("SCORED", 1.0),
}


@asynccontextmanager
async def a_process(*command: str) -> AsyncIterator[None]:
    environment = {**os.environ, **PROTO, "PYTHONPATH": str(REPOSITORY)}
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


async def test_the_python_example_finds_the_token() -> None:
    async with (
        a_server(token=TOKEN) as server,
        a_process(sys.executable, str(EXAMPLES / "python/mine.py"), server.address),
    ):
        assert await scores(server) == [1.0, 0.0, 1.0]


async def test_the_node_example_finds_the_token(node_example: Path) -> None:
    async with a_server(token=TOKEN) as server, a_process("node", str(node_example / "mine.js"), server.address):
        assert await scores(server) == [1.0, 0.0, 1.0]


async def test_the_node_example_derives_the_token_from_the_operators_secret(
    node_example: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TPPO_TOKEN", "correct horse")
    derived = token_from_environment(Service.REWARD)
    monkeypatch.setenv("TPPO_RUNTIME_DIR", str(node_example / "nothing"))
    async with a_server(token=derived) as server, a_process("node", str(node_example / "mine.js"), server.address):
        assert await scores(server) == [1.0, 0.0, 1.0]


async def test_the_node_example_scores_for_a_run(node_example: Path) -> None:
    async with a_server() as server, a_process("node", str(node_example / "mine.js"), server.address):
        assert await scores(server) == [1.0, 0.0, 1.0]


async def test_what_a_node_function_returns_stands_for_the_same_as_in_python(node_example: Path) -> None:
    (node_example / "returned.js").write_text(RETURNED)
    async with a_server() as server, a_process("node", str(node_example / "returned.js"), server.address):
        scores = [await server.parts.scorer.score(RewardRequest("r", 0, "mine", "", name, "")) for name in NODE_CASES]

    found = {name: (one.status.name, one.score) for name, one in zip(NODE_CASES, scores, strict=True)}
    assert found == NODE_CASES
    assert scores[-1].components == {"flag": 1.0, "count": 7.0}


BUSY = """
const { serve } = require('./tppo_reward');
function busy() {
  const end = Date.now() + 400;
  while (Date.now() < end);
  return 1;
}
serve(process.argv[2], { mine: { score: busy } });
"""


async def test_node_functions_that_keep_its_thread_busy_make_none_late_that_wait(node_example: Path) -> None:
    (node_example / "busy.js").write_text(BUSY)
    section = SECTION.model_copy(update={"timeout_seconds": 2.0})
    async with a_server(section) as server, a_process("node", str(node_example / "busy.js"), server.address):
        scores = await asyncio.gather(*(server.score(str(number)) for number in range(12)))

    assert scores == [1.0] * 12


async def test_the_node_example_shows_its_certificate_where_the_service_demands_one(
    node_example: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, path in certified(tmp_path / "ours").items():
        monkeypatch.setenv(name, path)
    async with a_server() as server, a_process("node", str(node_example / "mine.js"), server.address):
        assert await scores(server) == [1.0, 0.0, 1.0]


async def test_the_node_example_without_a_certificate_is_refused(
    node_example: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, path in certified(tmp_path / "ours").items():
        monkeypatch.setenv(name, path)
    async with a_server() as server:
        for name in TLS_VARIABLES:
            monkeypatch.delenv(name)
        stream = asyncio.subprocess.PIPE
        command = ("node", str(node_example / "mine.js"), server.address)
        process = await asyncio.create_subprocess_exec(*command, stderr=stream, env={**os.environ, **PROTO})
        assert process.stderr is not None
        complaint = (await process.stderr.readline()).decode()
        process.kill()
        await process.communicate()

        assert "UNAVAILABLE" in complaint
        assert attached(server) == []


async def test_the_node_example_refuses_half_of_the_files_that_tls_takes(node_example: Path, tmp_path: Path) -> None:
    half = {name: path for name, path in certified(tmp_path / "ours").items() if name != "TPPO_TLS_KEY"}
    command = ("node", str(node_example / "mine.js"), "127.0.0.1:1")
    process = await asyncio.create_subprocess_exec(
        *command, stderr=asyncio.subprocess.PIPE, env={**os.environ, **PROTO, **half}
    )

    _, complaint = await process.communicate()

    assert "TPPO_TLS_KEY = '': expected a PEM file" in complaint.decode()
    assert process.returncode == 1


async def test_python_and_node_share_the_load(node_example: Path) -> None:
    python = (sys.executable, str(EXAMPLES / "python/mine.py"))
    async with a_server() as server, a_process("node", str(node_example / "mine.js"), server.address):
        async with a_process(*python, server.address):
            await until(lambda: attached(server), "two processes", is_met=lambda processes: len(processes) == 2)
            assert await asyncio.gather(*(server.score(str(index), "4") for index in range(100))) == [1.0] * 100
        assert await scores(server) == [1.0, 0.0, 1.0]


async def test_batched_and_asynchronous_functions_take_part_in_a_sum() -> None:
    section = SECTION.model_copy(update={"functions": {"mine": '"grpc:judge" + "grpc:shortness"'}})
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
