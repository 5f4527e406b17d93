"""The function `code` in the service's workers: no program takes its zero away, none runs where nothing isolates it."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from services.reward.build import scoring
from services.reward.verifiers.sandbox.program import IsolationError, isolation
from services.reward.workers.pool import WorkerPool
from services.reward.workers.worker import WorkerLimits
from tests.reward.verifiers.sandboxing import command_lines
from tests.support.waiting import DEADLINE_SECONDS, until
from tppo.config import ConfigError
from tppo.config.sections.services import RewardSection
from tppo.rollout import RewardRequest, ScoreStatus

pytestmark = pytest.mark.process

TESTS = json.dumps({"inputs": ["1 2\n", "3 4\n"], "outputs": ["3\n", "7\n"]})
MARKED_MB = 300 + os.getpid() % 200  # stands in the command lines of this test's programs alone
RIGHT = "print(sum(map(int, input().split())))"
# Refuses new namespaces, as the default profile of Docker does, and becomes the command that follows.
WITHOUT_NAMESPACES = """
import os, sys
from services.reward.verifiers.sandbox.inside import kernel, system_calls as calls
column, _ = calls.MACHINES[os.uname().machine]
refused = [kernel.libc.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), calls._step(calls.LOAD, calls.NUMBER)][1:]
for number in (calls.REFUSED["unshare"], calls.CLONE):
    refused += calls._refused_by_argument(number[column], calls.IF_ANY_BIT, calls.NEW_NAMESPACES)
kernel.install_filter(b"".join([*refused, calls._step(calls.RETURN, calls.ALLOW)]))
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


def request(program: str, tests: str = TESTS) -> RewardRequest:
    return RewardRequest("r", 0, "code", "", f"```python\n{program}\n```", tests)


@pytest.mark.parametrize(
    "program",
    [
        "import os\nos.kill(0, 9)",
        "import os\nos.kill(os.getppid(), 9)",
        "import os\nos.killpg(1, 19)\nos.kill(-1, 9)",
        "import sys\nsys.exit(97)",
        "import ctypes\nctypes.string_at(0)",
        "print('[' * 10**5)",
        "bytearray(2**40)",
    ],
)
async def test_no_end_of_a_program_turns_a_wrong_answer_into_a_failure(program: str) -> None:
    try:
        isolation()
    except IsolationError as error:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(str(error))
    pool = WorkerPool(["code"], num_workers=1, timeout_seconds=DEADLINE_SECONDS, limits=WorkerLimits(2**31))
    try:
        await pool.start()
        wrong = await pool.outcome("code", request(program))
        right = await pool.outcome("code", request(RIGHT))
    finally:
        await pool.close()

    assert (wrong.status, wrong.score, wrong.error) == (ScoreStatus.SCORED, 0.0, "")
    assert right.score == 1.0


async def test_a_worker_has_more_time_than_a_program() -> None:
    section = RewardSection(default_function="0.5*code(timeout_seconds=5) + 0.5*format", timeout_seconds=5.0)

    with pytest.raises(ConfigError, match=r"reward.timeout_seconds = 5: expected more than the 5 s that code\("):
        async with scoring(section):
            pass


@pytest.mark.parametrize(
    ("program", "tests"),
    [
        ("import os, time\nos.fork()\ntime.sleep(600)", TESTS),
        ("import time\ndef f():\n    time.sleep(600)", json.dumps({"fn_name": "f", "inputs": [[]], "outputs": [1]})),
    ],
)
async def test_a_program_and_its_judge_die_with_their_worker(program: str, tests: str) -> None:
    spec = f"code(timeout_seconds=600, memory_mb={MARKED_MB})"
    pool = WorkerPool([spec], num_workers=1, timeout_seconds=DEADLINE_SECONDS, limits=WorkerLimits(2**31))
    try:
        await pool.start()
        sleeping = asyncio.create_task(pool.outcome(spec, request(program, tests)))
        await until(num_processes_of_the_program, "the program's processes", is_met=lambda number: number >= 2)
    finally:
        await pool.close()
    sleeping.cancel()

    await until(num_processes_of_the_program, "the end of the program", is_met=lambda number: number == 0)
    assert num_processes_of_the_program() == 0


def num_processes_of_the_program() -> int:
    return sum(f'"memory_bytes": {MARKED_MB * 2**20}' in line for line in command_lines())


def scored(tmp_path: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    """`tppo score` of a right program where namespaces are refused."""
    lines = tmp_path / "responses.jsonl"
    lines.write_text(json.dumps({"response": f"```python\n{RIGHT}\n```", "ground_truth": TESTS}) + "\n")
    command: Sequence[str] = ("-m", "tppo", "score", "--function", "code", *options, str(lines))
    return subprocess.run(
        [sys.executable, "-c", WITHOUT_NAMESPACES, *command],
        capture_output=True,
        text=True,
        timeout=2 * DEADLINE_SECONDS,
        check=False,
    )


def test_where_nothing_isolates_programs_code_refuses_to_start(tmp_path: Path) -> None:
    ended = scored(tmp_path)

    assert ended.returncode == 2
    assert "no sandbox for programs" in ended.stderr
    assert "reward.allow_unsandboxed = true" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_where_nothing_isolates_programs_they_run_only_when_the_configuration_allows_it(tmp_path: Path) -> None:
    ended = scored(tmp_path, "--allow-unsandboxed")

    assert (ended.returncode, json.loads(ended.stdout)["score"]) == (0, 1.0), ended.stderr
    assert "run unsandboxed" in ended.stderr
