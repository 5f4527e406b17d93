"""What the configuration calls a reward function: `math`, `2*math - 1`, `math + 0.1*length(limit=4096, buffer=512)`.

`path/to/file.py:name` is a user's file, `grpc:name` a function that a user's process offers, `reasoning_gym:task` a
verifier of that library; in a sum they are quoted.

Parsed by Python's own grammar, of which only sums of weighted names, calls with constants, texts and numbers are
accepted; nothing is evaluated.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

FILE = re.compile(r"[^\"']+\.py:[A-Za-z_]\w*")
GYM = re.compile(r"reasoning_gym:(\w+)")
ATTACHED = re.compile(r"grpc:([A-Za-z_][\w.-]*)")
TRUTH_VALUES = {"true": True, "false": False}  # as TOML writes them
UNQUOTED = re.compile(r"""(?<!["'\w])(?:(?:grpc|reasoning_gym):[A-Za-z_][\w.-]*|[\w./~-]+\.py:[A-Za-z_]\w*)""")
EXPECTED = 'expected a name, path/to/file.py:name, grpc:name, or a sum such as 2*math - 1, math + 0.1*"file.py:name"'
CONSTANT = "constant"


@dataclass(frozen=True, slots=True)
class Term:
    """One function of a sum: a built-in with its arguments, a user's file, or what a user's process offers."""

    weight: float
    name: str
    spec: str  # of this function alone
    arguments: tuple[Any, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def is_file(self) -> bool:
        """Whether the name is `path/to/file.py:name`."""
        return FILE.fullmatch(self.name) is not None

    @property
    def gym_task(self) -> str:
        """The task of `reasoning_gym:task`; empty for another function."""
        found = GYM.fullmatch(self.name)
        return found[1] if found else ""

    @property
    def is_constant(self) -> bool:
        """Whether it is a number, the same for every response."""
        return self.name == CONSTANT

    @property
    def is_attached(self) -> bool:
        """Whether the name is `grpc:name`."""
        return ATTACHED.fullmatch(self.name) is not None


def terms(spec: str) -> list[Term]:
    """The terms of a sum. Raises ValueError with one sentence."""
    if _is_reference(spec):
        return [Term(1.0, spec, spec)]
    try:
        found = list(_terms(ast.parse(spec.strip(), mode="eval").body, 1.0))
        if all(term.is_constant for term in found) and CONSTANT not in spec:
            raise ValueError(f"{spec!r} is a number and no reward function")
        return found
    except (SyntaxError, ValueError) as error:
        reason = f"{error}; " if type(error) is ValueError else ""
        raise ValueError(f"reward function {spec!r}: {unquoted_in_sum(spec) or reason + EXPECTED}") from None


def unquoted_in_sum(spec: str) -> str:
    """What to do about a file, or another name with a colon, that stands in a sum without quotes; empty: none does."""
    found = UNQUOTED.search(spec)
    if found is None or not any(operator in spec for operator in "+*"):
        return ""
    quoted = f'"{found[0]}"'
    return f"{found[0]} stands in a sum; expected it in quotes, as in {spec.replace(found[0], quoted)}"


def _terms(node: ast.expr, weight: float) -> Iterator[Term]:
    match node:
        case ast.BinOp(left=left, op=ast.Add() | ast.Sub() as sign, right=right):
            yield from _terms(left, weight)
            yield from _terms(right, weight if isinstance(sign, ast.Add) else -weight)
        case ast.BinOp(left=factor, op=ast.Mult(), right=scaled) if (number := _number(factor)) is not None:
            yield from _terms(scaled, weight * number)
        case ast.BinOp(left=scaled, op=ast.Mult(), right=factor) if (number := _number(factor)) is not None:
            yield from _terms(scaled, weight * number)
        case ast.BinOp(left=scaled, op=ast.Div(), right=factor) if number := _number(factor):
            yield from _terms(scaled, weight / number)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            yield from _terms(operand, -weight)
        case ast.Constant() if (number := _number(node)) is not None:
            yield Term(weight * number, CONSTANT, f"{CONSTANT}()")
        case ast.Name(id=name):
            yield Term(weight, name, name)
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=keywords):
            options = {str(keyword.arg): _constant(keyword.value) for keyword in keywords}
            yield Term(weight, name, ast.unparse(node), tuple(map(_constant, arguments)), options)
        case ast.Constant(value=str() as reference) if _is_reference(reference):
            yield Term(weight, reference, reference)
        case _:
            raise ValueError(f"{ast.unparse(node)!r} is no reward function")


def _is_reference(spec: str) -> bool:
    return any(kind.fullmatch(spec) for kind in (FILE, GYM, ATTACHED))


def _number(node: ast.expr) -> float | None:
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return number
        case ast.UnaryOp(op=ast.USub(), operand=operand) if (positive := _number(operand)) is not None:
            return -positive
    return None


def _constant(node: ast.expr) -> Any:
    if (number := _number(node)) is not None:
        return number
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Name) and node.id in TRUTH_VALUES:
        return TRUTH_VALUES[node.id]
    raise ValueError(f"{ast.unparse(node)!r} is no number and no text")
