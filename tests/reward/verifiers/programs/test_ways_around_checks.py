"""Wrong programs whose tests would hold by what they let through: a leak, a change, an exception, nothing at all."""

import pytest

from services.reward.verifiers.sandbox.inside.judge.equality import are_same
from tests.reward.verifiers.programs.scoring import outcome
from tppo.rollout import ScoreStatus

pytestmark = pytest.mark.process

READS_FILES = (
    "import os\ndef add(a, b):\n    seen = os.pread(0, 1000, 0) + os.pread(1, 1000, 0)\n"
    "    return int(seen.split()[-1]) if seen else 0"
)
TWICE = (
    "class Twice:\n    count = 0\n    def __iter__(self):\n        return self\n    def __next__(self):\n"
    "        self.count += 1\n        if self.count in (1, 5):\n            raise StopIteration\n"
    "        return [3, 1, 2][self.count - 2]\ndef f(values):\n    return Twice()"
)
OWN_ABS = "def f(x):\n    return 0\ndef abs(x):\n    return 0\ndef all(items):\n    return True"
EMPTY = "import numpy\ndef f():\n    return numpy.array([])"
CHANGES = "def f(values, total):\n    values[:] = [total]\n    return [total]"
AROUND = {
    "what the tests printed": (READS_FILES, "print('expected', 3, flush=True)\nassert add(1, 2) == 3"),
    "an iterator that goes on": (TWICE, "r = f([3, 1, 2])\nassert all(x > 5 for x in r)\nassert list(r) == [3, 1, 2]"),
    "its own abs": (OWN_ABS, "from solution import *\nassert abs(f(2) - 4) < 1e-6"),
    "its own all": (OWN_ABS, "from solution import *\nassert all(f(x) == 2 * x for x in (1, 2))"),
    "its own abs under pytest": (
        OWN_ABS,
        "import pytest\nfrom solution import *\ndef test_f():\n    assert abs(f(2) - 4) < 1",
    ),
    "the end of a map": ("def f(x):\n    raise StopIteration", "assert all(map(lambda x: f(x) == x + 1, [1, 2]))"),
    "an empty array by approx": (EMPTY, "import pytest\ndef test_f():\n    assert f() == pytest.approx(2.5)"),
    "an empty array by allclose": (EMPTY, "import numpy as np\nassert np.allclose(f(), 2.5)"),
    "an empty list by allclose": ("def f():\n    return [[]]", "import numpy as np\nassert np.allclose(f(), 2.5)"),
    "an empty array by isclose": (EMPTY, "import numpy as np\nassert np.isclose(f(), 2.5).all()"),
    "an empty array by testing": (EMPTY, "import numpy as np\nnp.testing.assert_allclose(f(), desired=2.5)"),
    "a change of what was copied": (
        "def f(values):\n    values.clear()\n    return []",
        "values = [3, 1]\nresult = f(values)\ngot = list(result)\nassert got == sorted(values)",
    ),
    "a change seen item by item": (
        CHANGES,
        "values = [3, 4]\nresult = f(values, 9)\nassert sum(result) == 9 and all(x in values for x in result)",
    ),
    "a change seen in a loop": (
        CHANGES,
        "def test_f():\n    values = [3, 4]\n    result = f(values, 9)\n    assert sum(result) == 9\n"
        "    for x in result:\n        assert x in values",
    ),
    "a test that skips itself": (
        "def f():\n    return None",
        "import pytest\ndef test_f():\n    if f() is None:\n        pytest.skip('none')\n    assert f() == 3",
    ),
    "a message that cannot be written": ("def f():\n    return 10**5000", "assert f() == 2, f()"),
    "no tree at all": ("def f():\n    return 0", "assert is_same_tree(f(), [1, 2])"),
}


@pytest.mark.parametrize(("program", "tests"), AROUND.values(), ids=list(AROUND))
def test_no_wrong_program_passes_around_the_checks(program: str, tests: str) -> None:
    scored = outcome(program, tests)

    assert (scored.status, scored.score, scored.error) == (ScoreStatus.SCORED, 0.0, "")


@pytest.mark.parametrize(
    "tests", ["assert (f() == 2, 'no')", "assert f(), 2", "assert f(), [2]", "x = f()\nassert True"]
)
def test_a_check_that_holds_of_every_result_is_none(tests: str) -> None:
    assert "contain no check" in outcome("def f():\n    return 1", tests).error


@pytest.mark.parametrize(
    ("expected", "got", "is_same"),
    [
        (1000000006, 1000000007.0, False),
        (10**15, 10.0**15 + 1, False),
        (10**15, 10.0**15, True),
        (3, 3.0, True),
        (3, 3 + 4e-16, True),
        (3.0, 3 + 1e-12, True),
        (3, float("nan"), False),
        ([1], (1,), True),
        ([1], {1}, False),
        ("3", 3, False),
    ],
)
def test_a_float_is_near_a_float_and_equal_to_an_integer(expected: object, got: object, is_same: bool) -> None:
    assert are_same(expected, got) is is_same
