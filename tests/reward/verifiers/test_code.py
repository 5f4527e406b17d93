"""Programs that a model wrote, run against their tests where they can do no harm."""

import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from services.reward.verifiers.functions import load
from services.reward.verifiers.sandbox.isolation import ResourceLimits
from services.reward.verifiers.sandbox.program import IsolationError, isolation, run
from services.reward.verifiers.sandbox.verdict import program_of
from tests.support.waiting import DEADLINE_SECONDS
from tppo.rollout import RewardRequest

ADD = "def add(a, b):\n    return a + b\n"
SUM_OF_INPUT = "print(sum(map(int, input().split())))"
IN_AND_OUT = {"inputs": ["1 2\n", "3 4\n"], "outputs": ["3\n", "7\n"]}
CALLS = {"fn_name": "add", "inputs": [[1, 2], ["a", "b"]], "outputs": [3, "ab"]}


@pytest.fixture(scope="module", autouse=True)
def sandbox() -> None:
    """Skip where the kernel forbids namespaces, but fail in CI."""
    try:
        isolation()
    except IsolationError as error:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(str(error))


def verdict(program: str, ground_truth: object, function: str = "code") -> Any:
    text = ground_truth if isinstance(ground_truth, str) else json.dumps(ground_truth)
    return load(function)(RewardRequest("r", 0, "code", "", f"Here:\n```python\n{program}\n```", text))


@pytest.mark.parametrize(
    ("program", "ground_truth", "share"),
    [
        (SUM_OF_INPUT, IN_AND_OUT, 1.0),
        ("print(3)", IN_AND_OUT, 0.5),
        (ADD, CALLS, 1.0),
        ("class Solution:\n    def add(self, a, b):\n        print('noise')\n        return a + b", CALLS, 1.0),
        ("def add(a, b):\n    return 3", CALLS, 0.5),
        (ADD, "assert add(1, 2) == 3\nassert add('a', 'b') == 'ab'", 1.0),
        (ADD, ["assert add(1, 2) == 3", "assert add(1, 2) == 4"], 0.0),
        ("def add(a, b:", CALLS, 0.0),
        ("import sys\nsys.exit(0)", "assert add(1, 2) == 3", 0.0),
        ("import os\nos._exit(0)", CALLS, 0.0),
        ("import os\nos.write(1, b'\\n'.join([b'[' * 10**5] * 2))\nos._exit(0)", CALLS, 0.0),
    ],
)
def test_a_program_scores_only_when_all_tests_pass(program: str, ground_truth: object, share: float) -> None:
    assert verdict(program, ground_truth) == {"score": float(share == 1.0), "share_passed": share}


def test_a_program_that_never_ends_earns_nothing() -> None:
    assert verdict("while True: pass", CALLS, "code(timeout_seconds=0.2)")["score"] == 0.0


def test_a_response_without_a_program_earns_nothing() -> None:
    request = RewardRequest("r", 0, "code", "", "I would rather not.", "assert True")

    assert load("code")(request) == {"score": 0.0, "share_passed": 0.0}


def test_the_last_block_behind_the_thought_counts() -> None:
    response = "```python\nfirst\n```</think>```python\nsecond\n``` or\n```\nthird\n```"

    assert program_of(response) == "third\n"
    assert program_of("```python\nfirst\n```</think> nothing") is None


@pytest.mark.parametrize("ground_truth", ["", "{}", '{"inputs": [1], "outputs": []}'])
def test_a_row_without_tests_is_an_error_and_no_zero(ground_truth: str) -> None:
    with pytest.raises(ValueError, match="ground truth"):
        verdict(ADD, ground_truth)


def output_of(source: str) -> str:
    ran = run(source, "", seconds=DEADLINE_SECONDS, limits=ResourceLimits())
    return ran.output.strip()


def test_a_program_reaches_no_network() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        source = (
            "import socket\ntry:\n"
            f"    socket.create_connection(('127.0.0.1', {server.getsockname()[1]}), 2)\n"
            "except OSError as error:\n    print('no:', error.strerror)"
        )

        assert output_of(source).startswith("no:")


def test_a_program_sees_no_other_process_and_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TPPO_TOKEN", "correct horse")
    source = "import os\nprint(os.listdir('/proc'), os.getpid(), os.getppid(), 'TPPO_TOKEN' in os.environ)"

    assert output_of(source) == "[] 1 0 False"


def test_a_program_can_write_nowhere_but_in_its_own_tmp() -> None:
    victim = Path(os.__file__)  # not the repository's: it may lie in /tmp, which a program does not see
    source = (
        f"for path in ({str(victim)!r}, '/etc/passwd', '/tmp/mine'):\n"
        "    try:\n        open(path, 'a').close()\n        print('written')\n"
        "    except OSError as error:\n        print(error.strerror)\n"
        "print(__import__('os').listdir('/tmp'))"
    )

    *refused, last, listed = output_of(source).splitlines()

    assert len(refused) == 2
    assert set(refused) <= {"Read-only file system", "Permission denied"}
    assert (last, listed) == ("written", "['mine']")


def test_a_program_cannot_undo_its_isolation() -> None:
    source = (
        "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n"
        "print(libc.umount2(b'/proc', 2), libc.mount(b'none', b'/proc', b'proc', 0, None))"
    )

    assert output_of(source) == "-1 -1"


def test_memory_and_output_are_bounded() -> None:
    assert output_of("try:\n    bytearray(2**31)\nexcept MemoryError:\n    print('too much')") == "too much"
    assert len(run("print('x' * 10**8)", "", seconds=DEADLINE_SECONDS, limits=ResourceLimits()).output) <= 2**20
