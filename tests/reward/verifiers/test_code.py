"""Programs that a model wrote, run against their tests where they can do no harm."""

import json
import os
import socket
from pathlib import Path

import pytest

from services.reward.verifiers.functions import load, outcome_of_call
from services.reward.verifiers.sandbox.isolation import ResourceLimits
from services.reward.verifiers.sandbox.program import IsolationError, isolation, run
from tests.support.waiting import DEADLINE_SECONDS
from tppo.rollout import RewardRequest
from tppo.scoring.outcome import Outcome

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


def verdict(program: str, ground_truth: object, function: str = "code") -> Outcome:
    text = ground_truth if isinstance(ground_truth, str) else json.dumps(ground_truth)
    response = f"Here:\n```python\n{program}\n```"
    return outcome_of_call(load(function), RewardRequest("r", 0, "code", "", response, text))


@pytest.mark.parametrize(
    ("program", "ground_truth", "share"),
    [
        (SUM_OF_INPUT, IN_AND_OUT, 1.0),
        ("print(3)", IN_AND_OUT, 0.5),
        ("print(7)", IN_AND_OUT, 0.5),
        (ADD, CALLS, 1.0),
        ("class Solution:\n    def add(self, a, b):\n        print('noise')\n        return a + b", CALLS, 1.0),
        ("def add(a, b):\n    return 3", CALLS, 0.5),
        (ADD, "assert add(1, 2) == 3\nassert add('a', 'b') == 'ab'", 1.0),
        (ADD, ["assert add(1, 2) == 4", "assert add(1, 2) == 3"], 0.5),
        ("def add(a, b:", CALLS, 0.0),
        ("import sys\nsys.exit(0)", "assert add(1, 2) == 3", 0.0),
        ("import os\nos._exit(0)", CALLS, 0.0),
        ("import os\nos.write(1, b'\\n'.join([b'[' * 10**5] * 2))\nos._exit(0)", CALLS, 0.0),
    ],
)
def test_a_program_scores_when_all_tests_pass_or_by_their_share(
    program: str, ground_truth: object, share: float
) -> None:
    in_part = verdict(program, ground_truth, "code(partial_credit=True)")

    assert verdict(program, ground_truth).score == float(share == 1.0)
    assert (in_part.score, in_part.components) == (share, {"share_passed": share})


def test_the_first_test_that_fails_is_the_last_without_partial_credit() -> None:
    tests = {"inputs": ["1 2\n", "3 4\n"], "outputs": ["4\n", "7\n"]}

    assert verdict(SUM_OF_INPUT, tests).components == {"share_passed": 0.0}
    assert verdict(SUM_OF_INPUT, tests, "code(partial_credit=True)").components == {"share_passed": 0.5}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("timeout_seconds=0", "expected more than 0"),
        ("memory_mb=0", "expected more than 0"),
        ("format='lisp'", "expected one of stdin, functional, asserts, humaneval, pytest"),
    ],
)
def test_arguments_that_mean_nothing_are_refused(arguments: str, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        load(f"code({arguments})")


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
