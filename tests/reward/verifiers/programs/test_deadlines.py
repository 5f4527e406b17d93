"""A test has its own time, which no other process uses up; the first that fails is described."""

import subprocess
import sys
import time

import pytest

from services.reward.verifiers.sandbox.stopwatch import Stopwatch
from services.reward.verifiers.sandbox.tree import POLL_SECONDS, Tree
from tests.reward.verifiers.programs.scoring import ADD, SUM_OF_INPUT, outcome
from tests.support.waiting import DEADLINE_SECONDS
from tppo.rollout import ScoreStatus

pytestmark = pytest.mark.process

SPINS = "while True:\n    pass"
SLEEPS = "import time\ntime.sleep(600)"


@pytest.mark.parametrize(
    "waste", [SPINS, SLEEPS, "import threading\nthreading.Lock().acquire() and threading.Event().wait()"]
)
@pytest.mark.parametrize("form", ["stdin", "functional", "loading"])
def test_a_program_that_does_not_end_fails_its_test(waste: str, form: str) -> None:
    indented = waste.replace("\n", "\n    ")
    tests: object = {"fn_name": "f", "inputs": [[]], "outputs": [1]}
    program = f"def f():\n    {indented}"
    if form == "stdin":
        program, tests = waste, {"inputs": [""], "outputs": ["1"]}
    if form == "loading":
        program = waste

    scored = outcome(program, tests, function="code(timeout_seconds=0.4)")

    assert (scored.status, scored.score) == (ScoreStatus.SCORED, 0.0)
    assert "not done within 0.4 s of its own time" in scored.details


def test_each_test_has_the_whole_time() -> None:
    program = (
        "import time\nstart = time.process_time()\nwhile time.process_time() - start < 0.2:\n    pass\n" + SUM_OF_INPUT
    )
    tests = {"inputs": ["1 2"] * 6, "outputs": ["3"] * 6}

    assert outcome(program, tests, function="code(timeout_seconds=0.8)").score == 1.0


def test_many_tests_share_no_deadline() -> None:
    tests = {"inputs": ["1 2"] * 200, "outputs": ["3"] * 200}

    assert outcome(SUM_OF_INPUT, tests, function="code(timeout_seconds=1)").score == 1.0


def test_a_process_that_waits_for_a_processor_uses_up_no_time() -> None:
    rivals = [subprocess.Popen([sys.executable, "-c", SPINS]) for _ in range(12)]
    try:
        with Tree(rivals[0].pid, is_namespace=False) as tree:
            watch, started_at = Stopwatch([tree]), time.monotonic()
            while time.monotonic() - started_at < 2.0:
                time.sleep(POLL_SECONDS)
                seconds = watch.look()
    finally:
        for rival in rivals:
            rival.kill()
            rival.wait()

    assert seconds < 1.5  # two cores at most a sixth each, though this one was never idle


def test_a_process_that_sleeps_uses_up_time() -> None:
    sleeper = subprocess.Popen([sys.executable, "-c", SLEEPS])
    try:
        with Tree(sleeper.pid, is_namespace=False) as tree:
            watch, until = Stopwatch([tree]), time.monotonic() + DEADLINE_SECONDS
            while watch.look() < 0.5 and time.monotonic() < until:
                time.sleep(POLL_SECONDS)
    finally:
        sleeper.wait()

    assert time.monotonic() < until


@pytest.mark.parametrize(
    ("program", "tests", "details"),
    [
        (
            "import sys\nprint('so', file=sys.stderr)\nprint(int(input()) * 2)",
            {"inputs": ["1", "2"], "outputs": ["2", "5"]},
            "test 2 of 2, with input '2': expected '5', got '4\\n'; stderr: so",
        ),
        (
            "print(1 / int(input()))",
            {"inputs": ["0"], "outputs": ["1"]},
            "test 1 of 1, with input '0': expected '1', exit code 1; stderr: Traceback (most recent call last):",
        ),
        ("import os\nos.kill(os.getpid(), 9)", {"inputs": [""], "outputs": ["1"]}, "expected '1', ended by SIGKILL"),
        (ADD, {"fn_name": "add", "inputs": [[1, 2], [3, 4]], "outputs": [3, 8]}, "add(3, 4): expected 8, got 7"),
        (ADD, ["assert add(1, 2) == 4"], "assert add(1, 2) == 4: AssertionError; the program returned 3"),
        (
            ADD,
            "def check(candidate):\n    x = 4\n    assert candidate(1, 2) == x",
            "check(add): at `assert candidate(1, 2) == x`",
        ),
        (
            ADD,
            "import pytest\ndef test_add():\n    assert add(1, 2) == 4",
            "test_add: assert 3 == 4 +  where 3 = add(1, 2)",
        ),
        (
            "def add(a, b):\n    return a / 0",
            ["assert add(1, 2) == 4"],
            "the program raised ZeroDivisionError: division by zero",
        ),
        (
            "class One:\n    pass\ndef add(a, b):\n    return One()",
            ["assert add(1, 2) == 4"],
            "assert add(1, 2) == 4: the program returned an object of the class One, which is no data",
        ),
        ("def add(a, b:", ["assert add(1, 2) == 4"], "SyntaxError"),
        (
            "import os\ndef add(a, b):\n    os._exit(0)",
            ["assert add(1, 2) == 4"],
            "assert add(1, 2) == 4: the program ended",
        ),
        ("def add(a, b):\n    return bytearray(2**31)", ["assert add(1, 2) == 4"], "the program raised MemoryError"),
    ],
)
def test_the_details_say_which_test_failed_first_and_how(program: str, tests: object, details: str) -> None:
    assert details in outcome(program, tests).details
