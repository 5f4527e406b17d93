"""The tests of a row, in the formats that data sets have them in.

    stdin        {"inputs": ["1 2\\n"], "outputs": ["3\\n"]}                   APPS, TACO
                 {"public_tests": {"input": [...], "output": [...]}, ...}    CodeContests
                 [{"input": "1 2\\n", "output": "3\\n"}, ...]                 LiveCodeBench and others
                 {"public_test_cases": "[...]", "private_test_cases": "[...]", "metadata": "{...}"}
    functional   {"fn_name": "add", "inputs": [[1, 2]], "outputs": [3]}      APPS, TACO, LeetCode
                 [{"input": "1\\n2", "output": "3", "testtype": "functional", "fn_name": "add"}, ...]
                 [{"input": "a = 1, b = 2", "output": "3"}, ...], with "entry_point" in the row    LeetCodeDataset
    asserts      ["assert add(1, 2) == 3", ...], {"test_list": [...], "test_setup_code": "..."}, or the code   MBPP
    humaneval    "def check(candidate): ...", with "entry_point" in the row
    pytest       "from solution import add\\n\\ndef test_add(): ..."

A row's text may be JSON once, twice or three times over. What is none of these is refused: no program passes it.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from services.reward.verifiers.programs.python_tests import PythonTests, Row, python_tests
from services.reward.verifiers.programs.row_values import (
    arguments_of,
    decoded,
    decoded_value,
    in_order,
    lines_of_json,
    named_arguments,
    text_of,
)
from tppo.rollout import RewardRequest

FORMATS = ("stdin", "functional", "asserts", "humaneval", "pytest")
PARTS = ("public_tests", "private_tests", "generated_tests")
SETUP_KEYS = ("test_imports", "test_setup_code", "setup_code")
CODE_KEYS = (
    "test_list",
    "test_cases",
    "asserts",
    "assert_case",
    "test",
    "tests",
    "test_code",
    "unit_tests",
    "pytest",
    "functional",
)
NESTED_KEYS = ("input_output", "test_cases", "tests", "ground_truth", "verification_info")
LISTS_OF_TESTS = ("public_test_cases", "private_test_cases", "official_tests", "examples")
NAME_KEYS = ("fn_name", "func_name", "entry_point", "function_name")
ALIASES = {"stdin": "input", "stdout": "output", "expected_output": "output"}  # of the keys of one test
OUTPUT_KEYS = {"output", "stdout", "expected_output"}
EXPECTED = f"expected one of the formats {', '.join(FORMATS)} (docs/rewards.md)"


@dataclass(frozen=True, slots=True)
class StandardIO:
    """What a script reads and what it has to print."""

    inputs: Sequence[str]
    outputs: Sequence[str]


@dataclass(frozen=True, slots=True)
class Calls:
    """A function, its arguments and what it has to return."""

    function: str
    calls: Sequence[tuple[Sequence[Any], Any]]

    prompt: str = ""

    @property
    def counts(self) -> str:
        """What of an expected value counts, as APPS has results of functions in a list: it, its element, or either.

        Either, unless the prompt says by its annotation how deep the lists of a result are.
        """
        if not all(isinstance(expected, list) and len(expected) == 1 for _, expected in self.calls):
            return "whole"
        name = re.escape(self.function.rpartition(".")[2])
        annotation = re.search(
            rf"def {name}\(.*?\)\s*->\s*((?:[\w.]*List\[)*)(?:int|str|float|bool)\b", self.prompt, re.S | re.I
        )
        if annotation is None:
            return "either"
        return "element" if _depth(self.calls[0][1]) > annotation[1].count("[") else "whole"


Tests = StandardIO | Calls | PythonTests


def tests_of(request: RewardRequest, *, form: str) -> Tests:
    """The tests that a row holds; `form`: its format, where it is to be of that one. Raises ValueError."""
    given = decoded(request.ground_truth)
    extra = decoded(request.extra_info)
    extra = extra if isinstance(extra, dict) else {}
    tests = _tests(given, Row(request.prompt, _name_in(extra), bool(extra.get("own_classes"))), form)
    if isinstance(tests, Calls):
        tests = replace(tests, calls=in_order(tests.function, tests.calls, request.prompt), prompt=request.prompt)
    if form and not _has_form(tests, form):
        raise ValueError(f"the tests of the ground truth are not of the format {form}; {EXPECTED}")
    return tests


def _tests(given: Any, row: Row, form: str) -> Tests:
    if isinstance(given, dict):
        return _of_table(given, row, form)
    if isinstance(given, list) and given and all(isinstance(one, dict) for one in given):
        return _of_entries(given, row)
    if isinstance(given, list) and given and all(isinstance(one, str) for one in given):
        return _of_code(given, row, form)
    if isinstance(given, list) and given and all(map(_is_pair, given)):
        return _of_pairs([one for one, _ in given], [other for _, other in given], "")
    if isinstance(given, str) and given.strip():
        return _of_code([given], row, form)
    if given in ("", [], None):
        raise ValueError(f"no tests in the ground truth; {EXPECTED}")
    kind = f"a list with {type(given[0]).__name__}" if isinstance(given, list) else type(given).__name__
    raise ValueError(f"the ground truth is {kind} and holds no tests; {EXPECTED}")


def _of_table(table: Mapping[str, Any], row: Row, form: str) -> Tests:
    row = replace(
        row,
        entry_point=_name_in(table) or row.entry_point,
        has_own_classes=row.has_own_classes or bool(table.get("own_classes")),
    )
    if any(isinstance(table.get(part), dict) for part in PARTS):
        parts = [table[part] for part in PARTS if isinstance(table.get(part), dict)]
        return _of_pairs(_joined(parts, "input"), _joined(parts, "output"), "")
    if any(table.get(key) for key in LISTS_OF_TESTS):
        return _of_entries([one for key in LISTS_OF_TESTS for one in _entries(table.get(key), key)], row)
    if isinstance(table.get("inputs"), str) and isinstance(table.get("outputs"), str):
        return _of_pairs([table["inputs"]], [table["outputs"]], "")
    if isinstance(table.get("inputs"), list):
        return _of_pairs(table["inputs"], table.get("outputs", []), row.entry_point)
    given, expected = (table.get(one, table.get(other)) for one, other in (("input", "stdin"), ("output", "stdout")))
    if isinstance(given, list) and isinstance(expected, list):
        return _of_pairs(given, expected, row.entry_point)
    if not OUTPUT_KEYS.isdisjoint(table):
        return _of_entries([table], row)
    for key in NESTED_KEYS:
        nested = decoded(table[key]) if isinstance(table.get(key), str) else table.get(key)
        if isinstance(nested, dict) or (isinstance(nested, list) and nested and isinstance(nested[0], dict)):
            return _tests(nested, row, form)
    code = [part for key in (*SETUP_KEYS, *CODE_KEYS) for part in _code_parts(table.get(key), key)]
    if any(table.get(key) for key in CODE_KEYS):
        return _of_code(code, row, form)
    raise ValueError(f"no tests in the ground truth, whose keys are {', '.join(map(str, table)) or 'none'}; {EXPECTED}")


def _entries(given: Any, key: str) -> Sequence[Mapping[str, Any]]:
    entries = decoded(given) if given else []
    if not isinstance(entries, list) or not all(isinstance(one, dict) for one in entries):
        raise ValueError(f"{key} of the ground truth is no list of tests; expected it in JSON, not compressed")
    return entries


def _joined(parts: Sequence[Mapping[str, Any]], key: str) -> list[Any]:
    return [one for part in parts for one in part.get(key, [])]


def _of_pairs(inputs: Sequence[Any], outputs: Sequence[Any], function: str) -> Tests:
    if len(inputs) != len(outputs):
        raise ValueError(f"{len(inputs)} inputs and {len(outputs)} outputs in the ground truth; expected as many")
    if not inputs:
        raise ValueError(f"no tests in the ground truth: inputs is empty; {EXPECTED}")
    if function:
        if all(output in (None, [None]) for output in outputs):
            raise ValueError("every output of the ground truth is null, which a function that does nothing returns")
        return Calls(function, [(arguments_of(one), output) for one, output in zip(inputs, outputs, strict=True)])
    expected = list(map(text_of, outputs))
    if not any(map(str.strip, expected)):
        raise ValueError("every output of the ground truth is empty, so a program that does nothing would pass")
    return StandardIO([text_of(one).replace("\r\n", "\n") for one in inputs], expected)


def _of_entries(entries: Sequence[Mapping[str, Any]], row: Row) -> Tests:
    """One table for each test."""
    entries = [{ALIASES.get(key, key): value for key, value in one.items()} for one in entries]
    kinds = {str(one.get("testtype", one.get("type", ""))) for one in entries}
    if any("output" not in one for one in entries):
        raise ValueError(f"a test of the ground truth has no output; {EXPECTED}")
    inputs, outputs = [one.get("input", "") for one in entries], [one["output"] for one in entries]
    function = next((name for one in entries if (name := _name_in(one))), row.entry_point)
    if kinds & {"functional", "function_call"}:
        if not function:
            raise ValueError("functional tests in the ground truth without fn_name; expected the name of the function")
        return _of_pairs(list(map(lines_of_json, inputs)), list(map(decoded_value, outputs)), function)
    if function and (named := [named_arguments(one) for one in inputs]) and None not in named:
        return _of_pairs(named, list(map(decoded_value, outputs)), function)
    is_script = bool(kinds & {"stdin", "stdin_stdout"}) or all(isinstance(one, str) for one in inputs)
    return _of_pairs(inputs, outputs, "" if is_script else function)


def _of_code(parts: Sequence[str], row: Row, form: str) -> PythonTests:
    return python_tests(parts, row, form=form)


def _code_parts(given: Any, key: str) -> list[str]:
    if given is None:
        return []
    parts = given if isinstance(given, list) else [given]
    if not all(isinstance(part, str) for part in parts):
        raise ValueError(f"{key} of the ground truth holds {type(parts[0]).__name__}; expected Python code")
    return [part for part in parts if part.strip()]


def _is_pair(one: Any) -> bool:
    """Of an input and an output."""
    return isinstance(one, list) and len(one) == 2 and all(isinstance(text, str) for text in one)


def _name_in(table: Mapping[str, Any]) -> str:
    metadata = decoded(table.get("metadata"))
    tables = [table, *([metadata] if isinstance(metadata, dict) else [])]
    return next((str(one[key]) for one in tables for key in NAME_KEYS if one.get(key)), "")


def _depth(value: Any) -> int:
    """Of lists in lists, by the first of each."""
    return 1 + _depth(value[0]) if isinstance(value, list) and value else int(isinstance(value, list))


def _has_form(tests: Tests, form: str) -> bool:
    if isinstance(tests, PythonTests):
        return form in ("asserts", "pytest") or (form == "humaneval" and tests.has_entry)
    return form == ("functional" if isinstance(tests, Calls) else "stdin")
