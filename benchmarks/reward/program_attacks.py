"""Wrong programs that are after full marks: every trick, in every place of a program, against every format of tests.

Prints how many there were of each class and how many passed or were not scored; exit code 1 if any did.
`python -m benchmarks.reward.program_attacks [PART PARTS [KIND ...]]`: all, or one part of several, of some kinds.
"""

import json
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from textwrap import indent

from benchmarks.reward.program_tricks import MORE_TRICKS, TRICKS
from services.reward.verifiers.functions import load, outcome_of_call
from tppo.rollout import RewardRequest

# `{trick}` at the depth of the line that it is on.
PLACES = {
    "when loaded": "result = 0\n{trick}\ndef add(a, b):\n    return result",
    "when called": "def add(a, b):\n    result = 0\n    {trick}\n    return result",
    "at the second call": "calls = []\ndef add(a, b):\n    calls.append(a)\n    if len(calls) == 1:\n"
    "        return a + b\n"
    "    result = 0\n    {trick}\n    return result",
    "in a thread": "import threading\nfound = [0]\ndef work():\n    result = 0\n    {trick}\n    found[0] = result\n"
    "def add(a, b):\n    thread = threading.Thread(target=work)\n    thread.start()\n    thread.join()\n"
    "    return found[0]",
}
ROWS: dict[str, object] = {
    "asserts": ["assert add(1, 2) == 3", "assert add(5, 5) == 10", "assert abs(add(20, 22) - 42) < 1e-9"],
    "humaneval": {
        "test": "def check(candidate):\n    for a, b in [(1, 2), (5, 5), (20, 22)]:\n"
        "        assert candidate(a, b) == a + b",
        "entry_point": "add",
    },
    "functional": {"fn_name": "add", "inputs": [[1, 2], [5, 5], [20, 22]], "outputs": [3, 10, 42]},
    "pytest": "import pytest\nfrom solution import *\n@pytest.mark.parametrize('a, b', [(1, 2), (5, 5), (20, 22)])\n"
    "def test_add(a, b):\n    assert add(a, b) == pytest.approx(a + b)",
    "unittest": "import unittest\nfrom solution import add\nclass AddTest(unittest.TestCase):\n"
    "    def test_add(self):\n"
    "        self.assertEqual(add(1, 2), 3)\n        self.assertAlmostEqual(add(5, 5), 10)\n"
    "        self.assertIn(add(20, 22), [42])",
}
# Tests that hand over functions, seed, call from threads, compare by numpy, or come in other columns.
MORE_ROWS: dict[str, object] = {
    "callbacks": "def plus(x):\n    return x + 1\nassert add(plus, 2) == 7\nassert add(plus, 3) == 9\n",
    "seeds": "import random\nrandom.seed(3)\na = random.randint(50, 99)\nassert add(a, 1) == a + 1\n"
    "assert add(a, 2) == a + 2",
    "threads": "from concurrent.futures import ThreadPoolExecutor\nwith ThreadPoolExecutor(3) as pool:\n"
    "    found = list(pool.map(add, [1, 5, 20], [2, 5, 22]))\nassert found == [3, 10, 42]",
    "arrays": "import numpy as np\nassert np.allclose(add(1, 2), 3)\n"
    "np.testing.assert_allclose([add(5, 5), add(20, 22)], [10, 42])",
    "leetcode": {
        "fn_name": "add",
        "test_cases": [
            {"type": "functional", "fn_name": "add", "input": "5\n5", "output": "10"},
            {"type": "functional", "fn_name": "add", "input": "20\n22", "output": "42"},
        ],
    },
}
SCRIPTS = {"inputs": ["1 2\n", "5 5\n", "20 22\n"], "outputs": ["3\n", "10\n", "42\n"]}
SCRIPT_PLACES = {
    "printed": "result = 0\n{trick}\nprint(result)",
    "printed after all": "print(3, 10, 42, sep='\\n', flush=True)\nresult = 0\n{trick}\nprint('\\x1b[2J\\r', result)",
}


@dataclass(frozen=True)
class Attack:
    """A response and the row that it is after."""

    kind: str
    name: str
    program: str
    row: object


def attacks() -> Iterator[Attack]:
    """All of them, in one order."""
    for kind, tricks in {**TRICKS, **MORE_TRICKS}.items():
        rows = ROWS if kind in TRICKS else MORE_ROWS
        for name, trick in tricks.items():
            for place, template in PLACES.items():
                for form, row in rows.items():
                    yield Attack(kind, f"{name}, {place}, {form}", _placed(template, trick), row)
            for place, template in SCRIPT_PLACES.items():
                yield Attack(kind, f"{name}, {place}, stdin", _placed(template, trick), SCRIPTS)


def _placed(template: str, trick: str) -> str:
    line = next(line for line in template.split("\n") if "{trick}" in line)
    return template.replace(line, indent(trick, line.removesuffix("{trick}")))


def main() -> None:
    part, parts = map(int, sys.argv[1:3] or (0, 1))
    kinds = sys.argv[3:]
    score = load("code(timeout_seconds=2)")
    tried, faults = Counter[str](), Counter[str]()
    for attack in [one for one in attacks() if not kinds or one.kind in kinds][part::parts]:
        response = f"```python\n{attack.program}\n```"
        scored = outcome_of_call(score, RewardRequest("r", 0, "code", "", response, json.dumps(attack.row)))
        tried[attack.kind] += 1
        if scored.score != 0.0:
            faults[attack.kind] += 1
            cause = scored.error or scored.details
            print(f"{scored.status.name} {scored.score} {attack.kind}: {attack.name}: {cause:.300}", flush=True)
    for kind in tried:
        print(f"{kind}: {tried[kind]} attacks, {faults[kind]} passed or were not scored")
    print(f"all: {tried.total()} attacks, {faults.total()} passed or were not scored")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
