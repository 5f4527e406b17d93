"""Whether a program passes its tests. Three kinds of tests, as data sets have them:

    {"inputs": ["1 2\\n", ...], "outputs": ["3\\n", ...]}                     standard input and output
    {"fn_name": "add", "inputs": [[1, 2], ...], "outputs": [3, ...]}        calls of a function, or of Solution's method
    "assert add(1, 2) == 3"                                                 Python code, alone or in a list

What the first two kinds expect stays on this side, so a program cannot claim it. Python code runs beside the program,
which may know of it: a program that is after it can cheat.
"""

import json
import re
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from services.reward.verifiers.answers import END_OF_THOUGHT
from services.reward.verifiers.sandbox.isolation import ResourceLimits
from services.reward.verifiers.sandbox.program import run

BLOCK = re.compile(r"```(?:python3?|py)?[ \t]*\n(.*?)```", re.DOTALL)
CALLS = """
def _tppo_calls():
    import json, sys
    arguments = json.loads({arguments!r})
    function = globals().get({name!r}) or getattr(globals()["Solution"](), {name!r})
    returned = [json.dumps(function(*one)) for one in arguments]
    sys.stdout.write("\\n" + "\\n".join(returned))
_tppo_calls()
"""


@dataclass(frozen=True, slots=True)
class Tests:
    """What is tried, and what has to come of it."""

    name: str  # of the function that is called; empty: the program is run
    inputs: Sequence[Any]
    outputs: Sequence[Any]
    code: str  # instead of all that


def program_of(response: str) -> str | None:
    """The last block of code behind the last thought."""
    blocks = BLOCK.findall(response, response.rfind(END_OF_THOUGHT) + 1)
    return blocks[-1] if blocks else None


def tests_of(ground_truth: str) -> Tests:
    """The tests that a data row holds. Raises ValueError when there are none."""
    try:
        given = json.loads(ground_truth)
    except ValueError:
        given = ground_truth
    if isinstance(given, list):
        given = "\n".join(map(str, given))
    if isinstance(given, str) and given.strip():
        return Tests("", [], [], given)
    if not isinstance(given, dict) or not given.get("inputs"):
        raise ValueError("no tests in the ground truth; expected inputs and outputs, or Python code")
    inputs, outputs = given["inputs"], given.get("outputs", [])
    if len(inputs) != len(outputs):
        raise ValueError(f"{len(inputs)} inputs and {len(outputs)} outputs in the ground truth; expected as many")
    return Tests(given.get("fn_name") or "", inputs, outputs, "")


def share_passed(program: str, tests: Tests, *, seconds: float, limits: ResourceLimits) -> float:
    """From 0 to 1. Raises `IsolationError` where programs cannot be isolated."""
    if tests.code:
        return _passes_code(program, tests.code, seconds, limits)
    if tests.name:
        return _share_of_calls(program, tests, seconds, limits)
    return _share_of_runs(program, tests, seconds, limits)


def _passes_code(program: str, code: str, seconds: float, limits: ResourceLimits) -> float:
    """Passed when the end is reached, where a number is printed that is drawn for this run."""
    mark = secrets.token_hex(16)
    ran = run(f"{program}\n{code}\nprint({mark!r})", "", seconds=seconds, limits=limits)
    return float(ran.is_good and ran.output.rstrip().endswith(mark))


def _share_of_calls(program: str, tests: Tests, seconds: float, limits: ResourceLimits) -> float:
    calls = CALLS.format(arguments=json.dumps(list(tests.inputs)), name=tests.name)
    ran = run(f"{program}\n{calls}", "", seconds=seconds, limits=limits)
    returned = ran.output.splitlines()[-len(tests.inputs) :]
    if not ran.is_good or len(returned) < len(tests.inputs):
        return 0.0
    pairs = zip(returned, tests.outputs, strict=True)
    return sum(bool(_parsed(line) == output) for line, output in pairs) / len(returned)


def _share_of_runs(program: str, tests: Tests, seconds: float, limits: ResourceLimits) -> float:
    """All runs share the deadline."""
    deadline = time.monotonic() + seconds
    passed: list[bool] = []
    for given, expected in zip(tests.inputs, tests.outputs, strict=True):
        left = deadline - time.monotonic()
        if left <= 0:
            break
        ran = run(program, given, seconds=left, limits=limits)
        passed.append(ran.is_good and _lines(ran.output) == _lines(expected))
    return sum(passed) / len(tests.inputs)


def _lines(text: str) -> list[str]:
    """Without trailing spaces and trailing empty lines, which no judge looks at."""
    return [line.rstrip() for line in text.rstrip().splitlines()]


def _parsed(line: str) -> object:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):  # brackets in brackets, ten thousand deep
        return None
