"""A right program passes its tests in every format that data sets have, and a wrong one in none."""

import json

import pytest

from tests.reward.verifiers.programs.scoring import ADD, SUM_OF_INPUT, WRONG_ADD, outcome, outcome_of
from tppo.rollout import ScoreStatus

pytestmark = pytest.mark.process

WRONG_SUM = "print(3)"
CHECK = (
    "METADATA = {}\n\n\ndef check(candidate):\n    assert candidate(1, 2) == 3\n    assert candidate(a=5, b=5) == 10\n"
)
PYTEST = """
import pytest
from solution import add

@pytest.fixture
def one():
    return 1

@pytest.mark.parametrize("a, b, c", [(1, 2, 3), (4, 5, 9)])
def test_add(a, b, c):
    assert add(a, b) == c

class TestMore:
    def test_refuses_text(self, one):
        with pytest.raises(TypeError):
            add(one, "2")
"""
UNITTEST = """
import unittest
from solution import add

class AddTest(unittest.TestCase):
    def setUp(self):
        self.numbers = [1, 2]

    def test_add(self):
        self.assertEqual(add(*self.numbers), 3)

if __name__ == "__main__":
    unittest.main()
"""
IN_AND_OUT = {"inputs": ["1 2\n", "3 4\n"], "outputs": ["3\n", "7\n"]}
CALLS = {"fn_name": "add", "inputs": [[1, 2], [3, 4]], "outputs": [3, 7]}
SCRIPTS = {
    "apps": IN_AND_OUT,
    "apps encoded twice": json.dumps(json.dumps(IN_AND_OUT)),
    "apps as a whole row": {"input_output": json.dumps(IN_AND_OUT)},
    "taco": {"inputs": [["1 2"], ["3 4"]], "outputs": [["3"], ["7"]]},
    "numbers": {"inputs": ["1 2", "3 4"], "outputs": [3, 7]},
    "codecontests": {
        "public_tests": {"input": ["1 2\n"], "output": ["3\n"]},
        "private_tests": {"input": [], "output": []},
        "generated_tests": {"input": ["3 4\n"], "output": ["7\n"]},
    },
    "livecodebench": [
        {"input": "1 2\n", "output": "3\n", "testtype": "stdin"},
        {"input": "3 4", "output": "7", "testtype": "stdin"},
    ],
    "entries by other names": [{"stdin": "3 4", "expected_output": "7"}],
    "entries": [{"type": "stdin_stdout", "input": "3 4", "output": "7"}],
}
FUNCTIONS = {
    "apps": CALLS,
    "apps, each result in a list": {**CALLS, "outputs": [[3], [7]]},
    "apps encoded twice": json.dumps(json.dumps(CALLS)),
    "livecodebench": [{"input": "1\n2", "output": "3", "testtype": "functional", "fn_name": "add"}],
    "livecodebench with metadata": [
        {"input": "1\n2", "output": "3", "testtype": "functional", "metadata": {"func_name": "add"}}
    ],
    "mbpp": ["assert add(1, 2) == 3", "assert add(3, 4) == 7"],
    "mbpp row": {"test_list": ["assert add(1, 2) == 3"], "test_setup_code": "import math"},
    "code": "total = 0\nfor a in range(3):\n    total += a\nassert add(1, 2) == total",
    "module": "import solution\nassert solution.add(1, 2) == 3",
    "imported": "from solution import add as plus\nassert plus(1, 2) == 3",
    "star": "from solution import *\nassert add(1, 2) == 3",
    "humaneval": {"test": CHECK, "entry_point": "add"},
    "humaneval without its entry point": CHECK,
    "humaneval called": f"{CHECK}\ncheck(add)",
    "kodcode": "def test_add():\n    assert add(1, 2) == 3\n",
    "kodcode imported": "from solution import add\n\ndef test_add():\n    assert add(1, 2) == 3\n",
    "main": "def test_add():\n    assert add(1, 2) == 3\n\nif __name__ == '__main__':\n    test_add()\n",
    "pytest": PYTEST,
    "unittest": UNITTEST,
    "raising": "def verify():\n    if add(1, 2) != 3:\n        raise ValueError('no')\nverify()",
}


@pytest.mark.parametrize("ground_truth", SCRIPTS.values(), ids=list(SCRIPTS))
def test_scripts_are_judged_by_what_they_print(ground_truth: object) -> None:
    right, wrong = outcome(SUM_OF_INPUT, ground_truth), outcome(WRONG_SUM.replace("3", "5"), ground_truth)

    assert (right.status, right.score, right.details) == (ScoreStatus.SCORED, 1.0, "")
    assert (wrong.status, wrong.score) == (ScoreStatus.SCORED, 0.0)


@pytest.mark.parametrize("ground_truth", FUNCTIONS.values(), ids=list(FUNCTIONS))
def test_functions_are_judged_by_what_they_return(ground_truth: object) -> None:
    right, wrong = outcome(ADD, ground_truth), outcome(WRONG_ADD, ground_truth)

    assert (right.status, right.score, right.details) == (ScoreStatus.SCORED, 1.0, "")
    assert (wrong.status, wrong.score) == (ScoreStatus.SCORED, 0.0)


@pytest.mark.parametrize("ground_truth", [CALLS, {"test": CHECK, "entry_point": "Solution().add"}])
def test_a_method_of_leetcodes_solution_is_judged(ground_truth: object) -> None:
    right = "class Solution:\n    def add(self, a: int, b: Optional[int] = None) -> List[int]:\n        return a + b\n"

    assert outcome(right, ground_truth).score == 1.0
    assert outcome(right.replace("a + b", "a"), ground_truth).score == 0.0


def test_linked_lists_and_trees_are_lists_in_functional_tests() -> None:
    program = (
        "class Solution:\n"
        "    def values(self, head: Optional[ListNode], root: Optional[TreeNode]) -> Optional[ListNode]:\n"
        "        last = head\n"
        "        while last.next:\n            last = last.next\n"
        "        last.next = ListNode(root.right.val)\n"
        "        return head\n"
    )
    tests = {"fn_name": "values", "inputs": [[[1, 2], [5, None, 7]]], "outputs": [[1, 2, 7]]}

    assert outcome(program, tests).score == 1.0
    assert outcome(program.replace("right.val", "val"), tests).score == 0.0


def test_linked_lists_and_trees_cross_as_the_programs_own_class() -> None:
    program = (
        "class ListNode:\n    __slots__ = ('val', 'next')\n"
        "    def __init__(self, val=0, next=None):\n        self.val, self.next = val, next\n"
        "def reverse(head):\n    last = None\n"
        "    while head:\n        head.next, last, head = last, head, head.next\n    return last\n"
    )
    tests = (
        "assert is_same_list(reverse(list_node([1, 2, 3])), list_node([3, 2, 1]))\n"
        "long = reverse(list_node(range(20000)))\n"
        "assert (long.val, long.next.val) == (19999, 19998)"
    )

    assert outcome(program, tests).score == 1.0
    assert outcome(program.replace("return last", "return head"), tests).score == 0.0


@pytest.mark.parametrize(
    ("function", "ground_truth", "score"),
    [
        ("code(format='pytest')", "def test_add():\n    assert add(1, 2) == 3", 1.0),
        ("code(format='asserts')", ["assert add(1, 2) == 3"], 1.0),
        ("code(format='humaneval')", CHECK, 1.0),
        ("code(format='humaneval')", ["assert add(1, 2) == 3"], None),
        ("code(format='functional')", CALLS, 1.0),
        ("code(format='stdin')", CALLS, None),
    ],
)
def test_a_named_format_refuses_tests_of_another(function: str, ground_truth: object, score: float | None) -> None:
    scored = outcome(ADD, ground_truth, function=function)

    assert scored.score == score
    assert score is not None or "are not of the format" in scored.error


def test_a_program_may_print_as_much_as_is_expected() -> None:
    tests = {"inputs": [""], "outputs": ["x" * 3_000_000]}

    assert outcome("print('x' * 3_000_000)", tests).score == 1.0
    assert outcome("print('x' * 2_999_999)", tests).score == 0.0


def test_a_program_in_a_thought_that_never_closes_is_none() -> None:
    request = outcome_of("<think>```python\ndef add(a, b):\n    return a + b\n```", ["assert add(1, 2) == 3"])

    assert request.score == 0.0


def test_a_function_with_the_name_of_pythons_own_is_the_programs() -> None:
    assert outcome("def sum(a, b):\n    return a + b", ["assert sum(10, 15) == 25"]).score == 1.0
    assert outcome("def sum(a, b):\n    return a", ["assert sum(10, 15) == 25"]).score == 0.0


def test_floats_are_judged_to_the_tolerance() -> None:
    tests = {"inputs": ["", ""], "outputs": ["0.3333 1", "2"]}
    program = "print(1 / 3, 1) if not globals().get('x') else print(2)"

    assert outcome(program, {"inputs": [""], "outputs": ["0.3333 1"]}).score == 0.0
    assert outcome(program, {"inputs": [""], "outputs": ["0.3333 1"]}, function="code(tolerance=1e-3)").score == 1.0
    assert outcome(program, tests, function="code(tolerance=1e-3)").score == 0.0
    assert outcome("def f():\n    return 0.1 + 0.2", {"fn_name": "f", "inputs": [[]], "outputs": [0.3]}).score == 1.0


@pytest.mark.parametrize(
    ("annotation", "outputs", "right", "wrong"),
    [
        ("int", [[3], [7]], "a + b", "[a + b]"),
        ("List[int]", [[3], [7]], "[a + b]", "a + b"),
        ("List[int]", [[[3]], [[7]]], "[a + b]", "[[a + b]]"),
        ("list[list[int]]", [[[3]], [[7]]], "[[a + b]]", "[a + b]"),
    ],
)
def test_the_prompts_annotation_says_whether_a_list_is_the_result(
    annotation: str, outputs: object, right: str, wrong: str
) -> None:
    prompt = f"Add:\nclass Solution:\n    def add(self, a: int,\n            b: int) -> {annotation}:\n"
    tests = {**CALLS, "outputs": outputs}

    assert outcome(f"def add(a, b):\n    return {right}", tests, prompt=prompt).score == 1.0
    assert outcome(f"def add(a, b):\n    return {wrong}", tests, prompt=prompt).score == 0.0
