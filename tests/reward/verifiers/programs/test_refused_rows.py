"""Tests that can judge no program are refused with the cause, whatever the program is."""

import pytest

from tests.reward.verifiers.programs.scoring import ADD, WRONG_ADD, outcome
from tppo.rollout import ScoreStatus

pytestmark = pytest.mark.process

OWN_CLASS = "stack = Stack()\nstack.push(1)\nassert stack.pop() == 1"
STACK = "class Stack(list):\n    def push(self, value):\n        self.append(value)\n"


@pytest.mark.parametrize(
    ("ground_truth", "cause"),
    [
        ("", "no tests in the ground truth"),
        ("[]", "no tests in the ground truth"),
        ("{}", "no tests in the ground truth"),
        ("[3, 7]", "a list with int"),
        ("42", "the ground truth is int"),
        ({"inputs": [1], "outputs": []}, "1 inputs and 0 outputs"),
        ({"inputs": [], "outputs": []}, "inputs is empty"),
        ({"answer": 3}, "whose keys are answer"),
        ([{"input": "1"}], "has no output"),
        ([{"input": "1", "output": "2", "testtype": "functional"}], "without fn_name"),
        ({"test_list": [3]}, "test_list of the ground truth holds int"),
        (["assert add(1, 2 == 3"], "are no Python"),
        ("the sum of both numbers", "are no Python"),
        ("add(1, 2)", "contain no check"),
        (["3", "7"], "contain no check"),
        ("def verify():\n    assert add(1, 2) == 3", "define checks and never run them"),
        ("assert True", "contain no check"),
        ("assert 1 + 1 == 2", "never use the program"),
        ("def add(a, b):\n    return 3\nassert add(1, 2) == 3", "never use the program"),
        (
            "assert close(add(1, 2), 3)",
            "the tests use close, which they do not define, to check what",
        ),
        ("assert rounded(add(1, 2)) == 3", "the tests use rounded, which neither they nor the program define"),
        ("assert callable(add)", "never use the program"),
        ("import no_such_module\nassert add(1, 2) == 3", "the tests import what is not there: No module named"),
        ("import pytest\nimport no_such_module\ndef test_add():\n    assert add(1, 2) == 3", "cannot be collected"),
        ("import pytest\n@pytest.mark.skip\ndef test_add():\n    assert add(1, 2) == 3", "pytest skipped all tests"),
        ("import os\nos._exit(0)\nassert add(1, 2) == 3", "the tests ended the judge"),
        ({"inputs": ["1"], "outputs": [" \n"]}, "every output of the ground truth is empty"),
        ({"fn_name": "add", "inputs": [[1, 2]], "outputs": [None]}, "every output of the ground truth is null"),
        ("assert_equal(add(1, 2), 3)", "the tests use assert_equal, which they do not define"),
        ("assert all(close(add(x, 1), x + 1) for x in (1, 2))", "the tests use close, which they do not define"),
        ("assert close(add(1, 2), 3) is True and add(1, 1) == 2", "the tests use close, which they do not define"),
        ("try:\n    assert add(1, 2) == 3\nexcept AssertionError:\n    print('no')", "contain no check"),
        ("try:\n    assert add(1, 2) == 3\nexcept (TypeError, Exception) as e:\n    print(e)", "contain no check"),
        (
            {"test": "def check(candidate):\n    assert candidate(1, 2) == plus(1, 2)", "entry_point": "add"},
            "the tests use plus, which neither they define nor the row asks",
        ),
    ],
)
def test_tests_that_judge_no_program_are_refused_with_the_cause(ground_truth: object, cause: str) -> None:
    for program in (ADD, WRONG_ADD):
        refused = outcome(program, ground_truth)

        assert (refused.status, refused.score) == (ScoreStatus.FAILED, None)
        assert cause in refused.error


@pytest.mark.parametrize(
    "tests",
    [
        OWN_CLASS,
        "def test_stack():\n    stack = Stack()\n    stack.push(1)\n    assert stack.pop() == 1",
        "import pytest\nfrom solution import Stack\n@pytest.fixture\ndef stack():\n    return Stack()\n"
        "def test_push(stack):\n    stack.push(1)\n    assert len(stack) == 1",
        "assert isinstance(make(), Stack)",
        "from solution import Stack, StackError\ntry:\n    f()\n    assert False\nexcept StackError:\n    pass",
        "assert Point(1, 2) == Point(1, 2)",
        "class Mine(Stack):\n    pass\nassert len(Mine()) == 0",
        "assert size(Stack([1])) == 1",
        "stack = Stack()\nstack.next = Stack()\nassert size(stack) == 2",
    ],
)
def test_tests_that_need_a_programs_own_class_are_refused_unless_the_row_is_marked(tests: str) -> None:
    refused = outcome(STACK, tests)

    assert refused.status is ScoreStatus.FAILED
    assert "own_classes = true" in refused.error


STATE = {
    "a temporary folder": "def test_f(tmp_path):\n    assert f(tmp_path) == 1",
    "a file": "with open('/tmp/a', 'w') as file:\n    file.write('a')\nassert f('/tmp/a') == 1",
    "a path": "from pathlib import Path\nPath('a').write_text('a')\nassert f('a') == 1",
    "a folder": "import os\nf()\nassert os.path.exists('a')",
    "the environment": "import os\nos.environ['A'] = 'a'\nassert f() == 'a'",
    "arguments": "import sys\nsys.argv = ['a']\nassert f() == 'a'",
    "standard input": "import io, sys\nsys.stdin = io.StringIO('3')\nassert f() == 3",
    "patched input": "from unittest.mock import patch\ndef test_f():\n"
    "    with patch('builtins.input', return_value='3'):\n        assert f() == 3",
    "patched by a decorator": "from unittest import mock\n@mock.patch('solution.g')\n"
    "def test_f(g):\n    assert f() == 3",
    "patched by pytest": "def test_f(monkeypatch):\n    monkeypatch.setattr('builtins.input', lambda: '3')\n"
    "    assert f() == 3",
    "a constant of the program": "import solution\nsolution.LIMIT = 3\nassert solution.f() == 3",
    "a head": "import inspect\nassert list(inspect.signature(f).parameters) == ['a']",
    "annotations": "assert f.__annotations__ == {} and f() == 3",
    "a generator and no list": "from types import GeneratorType\nassert isinstance(f(), GeneratorType)",
    "a kind of generator": "from collections.abc import Generator\nassert isinstance(f(), Generator)",
    "a log": "def test_f(caplog):\n    f()\n    assert 'a' in caplog.text",
    "a warning": "import pytest\ndef test_f():\n    with pytest.warns(UserWarning):\n        f()",
    "standard error": "def test_f(capsys):\n    f()\n    assert capsys.readouterr().err == 'a'",
    "a coroutine": "import asyncio\nassert asyncio.run(f()) == 3",
    "an asynchronous test": "import pytest\n@pytest.mark.asyncio\nasync def test_f():\n    assert await f() == 3",
}


@pytest.mark.parametrize("tests", STATE.values(), ids=list(STATE))
def test_tests_of_the_state_of_a_process_are_refused_unless_the_row_is_marked(tests: str) -> None:
    refused = outcome("def f(*given):\n    return 3", tests)

    assert refused.status is ScoreStatus.FAILED
    assert "own_classes = true" in refused.error


@pytest.mark.parametrize(
    ("program", "name", "wrong"),
    [
        ("import sys\ndef f():\n    return int(sys.stdin.readline())", "standard input", "return 4"),
        ("import os\ndef f():\n    return os.environ['A']", "the environment", "return 'b'"),
        ("def f(path):\n    return len(open(path).read())", "a file", "return 2"),
        ("async def f():\n    return 3", "a coroutine", "return 4"),
    ],
)
def test_a_marked_row_shares_its_process_with_the_program(program: str, name: str, wrong: str) -> None:
    marked = {"test": STATE[name], "own_classes": True}

    assert outcome(program, marked).score == 1.0
    assert outcome(f"{program.rpartition('return')[0]}{wrong}", marked).score == 0.0


NODES = (
    "class Node:\n    def __init__(self, data):\n        self.data, self.left, self.right = data, None, None\n"
    "root = Node(1)\nroot.left = Node(2)\nassert height(root) == 2"
)
HEIGHT = "def height(node):\n    return 0 if node is None else 1 + max(height(node.left), height(node.right))"


def test_objects_of_the_tests_own_classes_are_given_to_no_other_process() -> None:
    refused = outcome(HEIGHT, NODES)

    assert refused.status is ScoreStatus.FAILED
    assert "an object of their class Node" in refused.error
    assert outcome("def height(node):\n    return 2", NODES).status is ScoreStatus.FAILED
    assert outcome(HEIGHT, {"test": NODES, "own_classes": True}).score == 1.0
    assert outcome(HEIGHT.replace("1 +", ""), {"test": NODES, "own_classes": True}).score == 0.0


@pytest.mark.parametrize("module", ["random", "numpy.random"])
def test_a_seed_of_the_tests_is_one_of_the_program(module: str) -> None:
    program = f"import {module}\ndef f():\n    return int({module}.randint(0, 10**9))"
    tests = f"import {module}\n{module}.seed(3)\nx = {module}.randint(0, 10**9)\n{module}.seed(3)\nassert f() == x"

    assert outcome(program, tests).score == 1.0
    assert outcome(program.replace("10**9", "10**8"), tests).score == 0.0


def test_a_marked_row_is_judged_in_the_programs_own_process() -> None:
    marked = {"test": OWN_CLASS, "own_classes": True}

    assert outcome(STACK, marked).score == 1.0
    assert outcome(STACK, OWN_CLASS, extra_info='{"own_classes": true}').score == 1.0
    assert outcome(STACK.replace("self.append(value)", "pass"), marked).score == 0.0
    assert outcome("import os\nos._exit(0)", marked).score == 0.0
    assert outcome("class Other:\n    pass", marked).score == 0.0


@pytest.mark.parametrize(
    "tests",
    [
        "words = Split('a b')\nwords.append('c')\nassert words == ['a', 'b', 'c']",
        "assert Repeat([1, 1]) == [1] and Repeat([1]).count(1) == 1",
        "s = Solution()\nassert s.add(1, 2) == 3",
        "import numpy as np\nassert np.asarray(rows()).shape == (1,)",
        "assert is_close(add(1, 2), 3)\ndef is_close(a, b):\n    return abs(a - b) < 1",
    ],
)
def test_tests_that_use_data_are_not_taken_for_tests_of_a_class(tests: str) -> None:
    assert "own_classes" not in outcome("x = 1", tests).error


def test_no_program_defines_what_decides_whether_it_is_right() -> None:
    both = f"{ADD}def close(*given):\n    return True\n"

    assert outcome(both, "assert close(add(1, 2), 4)").status is ScoreStatus.FAILED
    assert outcome(both, "assert not close(add(1, 2), 4)").status is ScoreStatus.FAILED


def test_a_program_that_lacks_what_the_row_asks_of_it_is_wrong() -> None:
    encode = "def encode(text):\n    return text[::-1]\n"
    tests = "assert decode(encode('ab')) == 'ab'"

    lacking = outcome(encode, tests, prompt="Write encode and decode.")

    assert (lacking.status, lacking.score) == (ScoreStatus.SCORED, 0.0)
    assert "the program defines no decode" in lacking.details
    assert outcome("def other(): pass", "assert add(1, 2) == 3").score == 0.0


POLY = "import math\n\ndef poly(xs, x):\n    return math.fsum(c * x**i for i, c in enumerate(xs))\n\n"
FIND = "def find_zero(xs):\n    return {}\n"
PROMPT = f'Complete:\n{POLY}def find_zero(xs):\n    """The zero of a polynomial."""\n'
ZERO = {
    "test": "def check(candidate):\n    xs = [1, 2]\n    assert abs(poly(xs, candidate(xs))) < 1e-4",
    "entry_point": "find_zero",
}


def test_a_function_that_the_prompt_defines_is_the_rows() -> None:
    right, wrong = FIND.format("-xs[0] / xs[1]"), FIND.format("7")

    assert outcome(right, ZERO, prompt=PROMPT).score == 1.0
    assert outcome(POLY + right, ZERO, prompt=PROMPT).score == 1.0
    assert outcome(wrong, ZERO, prompt=PROMPT).score == 0.0
    assert outcome(f"def poly(xs, x):\n    return 0.0\n{wrong}", ZERO, prompt=PROMPT).score == 0.0


def test_a_module_that_the_tests_forgot_to_import_is_there() -> None:
    tests = "assert math.isclose(f(4), 2.0) and np.allclose(f(9), 3.0)"

    assert outcome("def f(x):\n    return x**0.5", tests).score == 1.0
    assert outcome("import math\ndef f(x):\n    return x", tests).score == 0.0


def test_a_handler_that_ends_the_tests_leaves_their_check_a_check() -> None:
    tests = "import sys\ntry:\n    assert add(1, 2) == 3\nexcept AssertionError:\n    sys.exit(1)"

    assert (outcome(ADD, tests).score, outcome(WRONG_ADD, tests).score) == (1.0, 0.0)
