"""Values as rows of data sets write them: JSON several times over, literals of Python, named arguments of LeetCode."""

import ast
import json
import re
from collections.abc import Sequence
from typing import Any

from services.reward.verifiers.programs.syntax import parsed

MAX_ENCODINGS = 3
JSON_NAMES = {"null": None, "true": True, "false": False}
Calls = Sequence[tuple[Sequence[Any], Any]]  # the arguments of each, and what it has to return


def decoded(text: Any) -> Any:
    given: Any = text
    for _ in range(MAX_ENCODINGS):
        if not isinstance(given, str):
            break
        try:
            given = json.loads(given)
        except (ValueError, RecursionError):
            break
    return given


def decoded_value(given: Any) -> Any:
    """A value in JSON, or as Python writes it: True, None, 'text', (1, 2)."""
    if not isinstance(given, str):
        return given
    try:
        return json.loads(given)
    except (ValueError, RecursionError):
        pass
    try:
        return json.loads(json.dumps(ast.literal_eval(given)))
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return given


def lines_of_json(given: Any) -> Any:
    """LiveCodeBench's arguments: each a line."""
    return [decoded_value(line) for line in given.split("\n")] if isinstance(given, str) else given


def named_arguments(given: Any) -> list[Any] | None:
    """LeetCode's `nums = [3, 3], target = 6`, in the function's order; None for another text."""
    try:
        call = ast.parse(f"f({given})", mode="eval").body if isinstance(given, str) else None
        if isinstance(call, ast.Call) and call.keywords and not call.args:
            return [_literal(keyword.value) for keyword in call.keywords]
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    return None


def in_order(function: str, calls: Calls, prompt: str) -> Calls:
    """Arguments by their names, `{"a": 1, "b": 2}`, in the order that the prompt's head of the function has."""
    found = re.search(rf"def {re.escape(function.rpartition('.')[2])}\(([^()]*)\)", prompt)
    head = parsed(f"def f({found[1]}): pass") if found else None
    names = [one.arg for one in head.body[0].args.args] if head and isinstance(head.body[0], ast.FunctionDef) else []
    names = [name for name in names if name != "self"]
    are_named = names and all(
        len(given) == 1 and isinstance(given[0], dict) and given[0].keys() == set(names) for given, _ in calls
    )
    return [([given[0][name] for name in names], output) for given, output in calls] if are_named else calls


def arguments_of(given: Any) -> Sequence[Any]:
    return given if isinstance(given, list) else [given]


def text_of(given: Any) -> str:
    """TACO has lines as a list, and others numbers."""
    return (
        "\n".join(map(text_of, given)) if isinstance(given, list) else given if isinstance(given, str) else str(given)
    )


def _literal(node: ast.expr) -> Any:
    """Of Python, or with JSON's names."""
    if isinstance(node, ast.Name) and node.id in JSON_NAMES:
        return JSON_NAMES[node.id]
    if isinstance(node, ast.List):
        return [_literal(one) for one in node.elts]
    return ast.literal_eval(node)
