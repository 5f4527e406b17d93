"""What crosses between the judge and the program, and what a test sees of it."""

import ast
from array import array
from collections import ChainMap, Counter, OrderedDict, UserDict, UserList, UserString, defaultdict, deque
from datetime import date
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from uuid import UUID

import pytest

from services.reward.verifiers.programs.instrumentation import with_counts
from services.reward.verifiers.sandbox.inside.calls.values import Nodes, NotDataError, ValueReader, ValueWriter
from tests.reward.verifiers.programs.scoring import outcome
from tppo.rollout import ScoreStatus

SORT = "def sort(values):\n    values.sort()\n    return values\n"
EMPTIES = "def sort(values):\n    values.clear()\n    return []\n"


def crossed(*values: object) -> list[object]:
    """The values as the other side has them."""

    def refuse(value: object) -> object:
        raise NotDataError(type(value).__name__)

    message = ValueWriter(Nodes(), refuse).message(*values)
    return ValueReader(Nodes(), refuse, {}).values(message)


@pytest.mark.parametrize(
    "value",
    [
        *(None, True, 0, -(2**70), 1.5, float("inf"), "é\ud83d", b"\x00", 2 + 3j, ...),
        *([1, [2]], (1, (2, [3])), {1: "a", (1, 2): [3]}, {1, 2}, frozenset({3}), range(3), bytearray(b"x")),
        *(array("i", [1, 2]), slice(1, None, 2**70), Path("a/b"), UUID(int=3), defaultdict(None, {1: [2]})),
        *(Counter("aab"), OrderedDict(a=1), deque([1]), date(2020, 1, 2), Decimal("1.50"), Fraction(1, 3)),
    ],
)
def test_data_crosses_with_its_types(value: object) -> None:
    (other,) = crossed(value)

    assert other == value
    assert type(other) is type(value)


@pytest.mark.parametrize(
    ("value", "data"),
    [
        (memoryview(b"ab"), b"ab"),
        (ChainMap[int, object]({1: 2}, {3: [4]}), {1: 2, 3: [4]}),
        (UserDict({1: 2}), {1: 2}),
        (UserList([1]), [1]),
        (UserString("a"), "a"),
        (defaultdict(list, {1: [2]}), {1: [2]}),
        ({1: 2}.keys(), [1]),
    ],
)
def test_what_wraps_data_crosses_as_the_data(value: object, data: object) -> None:
    assert crossed(value) == [data]


def test_shared_parts_and_circles_cross_as_they_are() -> None:
    shared: list[object] = [1]
    circle: list[object] = [shared, shared]
    circle.append(circle)

    (other,) = crossed(circle)

    assert isinstance(other, list)
    assert other[0] is other[1]
    assert other[2] is other


def test_a_subclass_crosses_as_its_base_without_what_it_does() -> None:
    class Liar(int):
        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = int.__hash__

    (other,) = crossed(Liar(5))

    assert type(other) is int
    assert other != 3


@pytest.mark.parametrize(
    "message", [{}, {"values": [["node", 3]], "nodes": []}, {"values": [], "nodes": [[-1, ["list", []]]]}]
)
def test_what_is_no_message_is_refused(message: dict[str, object]) -> None:
    with pytest.raises((KeyError, IndexError, ValueError)):
        ValueReader(Nodes(), lambda encoded: None, {}).values(message)


@pytest.mark.parametrize(
    "tests",
    [
        "values = [3, 1, 2]\nsort(values)\nassert values == [1, 2, 3]",
        "values = [3, 1, 2]\nresult = sort(values)\nassert values == [1, 2, 3]",
        "values = [3, 1, 2]\nassert sort(values) is not None\nassert sort(list(values)) == [1, 2, 3]",
        "def test_sort():\n    values = [3, 1]\n    sort(values)\n    assert values == [1, 3]",
        "for values in ([3, 1], [2]):\n    assert sort(values) == sorted(values)",
        "values = [3, 1]\nassert sort(values) == sorted(values)",
        "values = [3, 1]\nresult = sort(values)\nassert result == sorted(values)",
        "import unittest\nclass SortTest(unittest.TestCase):\n    def test_sort(self):\n"
        "        values = [3, 1]\n        result = sort(values)\n        self.assertEqual(result, sorted(values))",
    ],
)
def test_a_changed_argument_is_a_result_and_no_way_to_change_what_is_expected(tests: str) -> None:
    assert outcome(SORT, tests).score == 1.0
    assert outcome(EMPTIES, tests).score == 0.0


def test_a_result_that_counts_and_an_argument_that_holds_are_both_judged() -> None:
    remove = "def remove(values, one):\n    values[:] = [v for v in values if v != one]\n    return len(values)\n"
    tests = "values = [3, 2, 2, 3]\nk = remove(values, 3)\nassert k == 2\nassert values[:k] == [2, 2]"

    assert outcome(remove, tests).score == 1.0
    assert outcome("def remove(values, one):\n    return 2\n", tests).score == 0.0


RIGHT_AND_WRONG = (
    ("def f(g, x):\n    return g(g(x))", "def f(g, x):\n    return g(x)", "assert f(lambda x: x + 1, 3) == 5"),
    ("def f(n):\n    return lambda x: x + n", "def f(n):\n    return lambda x: n", "assert f(2)(3) == 5"),
    ("def f(n):\n    yield from range(n)", "def f(n):\n    yield n", "assert list(f(3)) == [0, 1, 2]"),
    ("def f(items):\n    return sum(items)", "def f(items):\n    return 0", "assert f(x * x for x in [1, 2]) == 5"),
    ("N = 3\ndef f():\n    return N", "N = 4\ndef f():\n    return 3", "assert f() == 3 and N == 3"),
    (
        "def f(x, *, key=None):\n    return (key or abs)(x)",
        "def f(x, key):\n    return x",
        "assert f(-3, key=abs) == 3",
    ),
    ("def f(t, x):\n    return isinstance(x, t)", "def f(t, x):\n    return 1", "assert f(int, 3) and not f(str, 3)"),
    (
        "def f(x):\n    raise ValueError('negative')",
        "def f(x):\n    raise KeyError('negative')",
        "import pytest\ndef test_f():\n    with pytest.raises(ValueError, match='negative'):\n        f(-1)",
    ),
    (
        "def f():\n    print('hello')",
        "def f():\n    print('bye')",
        "import pytest\ndef test_f(capsys):\n    f()\n    assert capsys.readouterr().out == 'hello\\n'",
    ),
    (
        "import numpy\ndef f():\n    return numpy.arange(3) * 2.0",
        "import numpy\ndef f():\n    return numpy.arange(3)",
        "import numpy as np\nnp.testing.assert_array_equal(f(), np.array([0.0, 2.0, 4.0]))",
    ),
)


@pytest.mark.parametrize(("right", "wrong", "tests"), RIGHT_AND_WRONG)
def test_functions_iterators_exceptions_and_output_cross(right: str, wrong: str, tests: str) -> None:
    passed = outcome(right, tests)

    assert (passed.score, passed.details) == (1.0, "")
    assert outcome(wrong, tests).score == 0.0


@pytest.mark.parametrize("value", ["object()", "lambda: 3", "iter([3])", "type('T', (), {})()"])
@pytest.mark.parametrize("check", ["assert f() == 3", "assert f()", "assert f() != 4", "assert not (f() == 4)"])
def test_what_is_no_data_passes_no_check(value: str, check: str) -> None:
    scored = outcome(f"def f():\n    return {value}", check)

    assert (scored.status, scored.score) == (ScoreStatus.SCORED, 0.0)


def test_an_endless_iterator_ends_its_test() -> None:
    assert outcome("def f():\n    while True:\n        yield 1", "assert len(list(f())) > 5").score == 0.0


def test_a_program_needs_no_import_for_its_annotations_and_no_depth_of_its_own() -> None:
    program = "def f(values: List[int]) -> Optional[int]:\n    return sum(values)\n"

    assert outcome(program, "assert f([1, 2]) == 3").score == 1.0
    assert (
        outcome("def f(n: Optional[int]) -> int:\n    return n and 1 + f(n - 1)\n", "assert f(985) == 985").score == 1.0
    )


def test_what_a_program_writes_as_bytes_crosses_too() -> None:
    tests = "def test_f(capsys):\n    f()\n    assert capsys.readouterr().out == 'é'"

    assert outcome("import sys\ndef f():\n    sys.stdout.buffer.write('é'.encode())", tests).score == 1.0


def test_an_integer_of_more_digits_than_python_writes_crosses() -> None:
    program = "def f(n):\n    return 10**n\n"

    assert outcome(program, "assert f(9000) == 10**9000").score == 1.0
    assert outcome(program, {"fn_name": "f", "inputs": [[9000]], "outputs": [1]}).score == 0.0


def test_half_characters_in_the_details_are_replaced() -> None:
    scored = outcome("def f():\n    return 'x'", "assert f() == 'y', '\\ud83d'")

    assert "AssertionError: ?" in scored.details


def test_checks_are_counted_where_they_are_reached() -> None:
    source = "def test_f():\n    for x in f():\n        assert x > 0\n"

    assert "_tppo_check()" in with_counts(ast.parse(source).body)
    assert outcome("def f():\n    return []", source).details.endswith("no check of this test was reached")
