r"""Equations and assignments: x = 5 and 5; y = 2x + 3 and 2x - y + 3 = 0; a chain x = 2 + 3 = 5."""

import re
from collections.abc import Callable
from dataclasses import dataclass

import sympy

from services.reward.verifiers.mathematics.comparing.equality import is_constant_ratio
from services.reward.verifiers.mathematics.reading.forms import (
    Form,
    GroupedForms,
    Leaf,
    Relation,
    TooComplexError,
    Union,
)
from services.reward.verifiers.mathematics.reading.quantities import quantity
from services.reward.verifiers.mathematics.reading.values import Value, value

CALL = (
    r"(?:\\(?:mathbb|mathrm|operatorname|text)\s*\{[a-zA-Z]+\}|[f-hpqA-Z])'*(?:_\{[^{}]*\})?(?:\^\{[^{}]*\})?"
    r"\s*\((?:[^()]|\([^()]*\))*\)"
)
NAME = re.compile(
    rf"{CALL}|(?:m?\\(?:angle|triangle)\s*)?"
    r"(?:\\(?:text|overline|vec|widehat|mathbf)\s*\{[^{}]*\}|\\?[a-zA-Z]{1,12})"
    r"'*(?:_\{[^{}]*\})?(?:\^\{-1\})?'*\s*(?:\([^()\d]*\))?"
)
DESCRIPTION = re.compile(rf"{CALL}|\|[^|]*\||.*\\mod\b.*|\\(?:sin|cos|tan|cot|sec|csc)(?![a-z])[^-+]*", re.DOTALL)
LETTER = re.compile(r"[^\W\d_]")
FLIPPED = {">": "<", r"\ge": r"\le"}


@dataclass(frozen=True, slots=True)
class Assignment:
    """A value, and the name it was given; empty without one."""

    name: str
    value: Form


def assigned_value(one: Form, are_equal_forms: Callable[[Form, Form], bool]) -> Assignment | None:
    """What a form stands for: itself, or the value at the end of a chain of equal sides; None for other relations."""
    if not isinstance(one, Relation):
        return Assignment("", one)
    name, sides = _named(one)
    if one.signs == (r"\in",):
        return Assignment(name, sides[-1]) if name else None
    if one.signs == (r"\approx",):
        return Assignment(name, sides[0])
    if set(one.signs) != {"="} or not all(are_equal_forms(sides[-1], side) for side in sides[:-1]):
        return None
    return Assignment(name, sides[-1])


def relation_name(one: Form) -> str:
    """The single letter that an equation assigns a value to; empty for other forms."""
    name = _named(one)[0] if isinstance(one, Relation) and one.signs == ("=",) else ""
    return name if len(name) == 1 else ""


def stated_value(one: Form, are_equal_forms: Callable[[Form, Form], bool]) -> Form | None:
    """The 25 of m + n = 25: what an equation says of a quantity that is described; None for one still to be solved.

    2x = 8 and x^2 = 25 leave x to be found; a combination of several letters, a length and f(3) do not.
    """
    if not isinstance(one, Relation) or set(one.signs) != {"="}:
        return None
    *others, last = one.sides
    if len(others) == 1 and not _is_constant(last):
        others, last = [last], others[0]
    if not _is_constant(last):
        return None
    is_stated = all(
        are_equal_forms(last, side) if _is_constant(side) else _is_description(side, last) for side in others
    )
    return last if is_stated else None


def are_equal_equations(gold: Form, answer: Form) -> bool:
    """Whether one follows from the other by scaling and by moving terms from side to side."""
    left, right = _difference(gold), _difference(answer)
    if left is None or right is None or left[0] != right[0]:
        return False
    return is_constant_ratio(left[1], right[1], is_positive=left[0] != "=")


def _named(relation: Relation) -> tuple[str, tuple[Form, ...]]:
    """The name on the left, or on the right of a single equation, and the other sides."""
    first, *rest = relation.sides
    if name := _name(first):
        return name, tuple(rest)
    if len(rest) == 1 and relation.signs == ("=",) and (name := _name(rest[0])):
        return name, (first,)
    return "", relation.sides


def _name(side: Form) -> str:
    """The name that a side consists of; a tuple of names is one, too."""
    if isinstance(side, Leaf):
        return side.text if NAME.fullmatch(side.text) else ""
    items = getattr(side, "items", ())
    names = [_name(item) for item in items]
    return f"({','.join(names)})" if names and all(names) else ""


def _difference(one: Form) -> tuple[str, sympy.Expr] | None:
    """The sign of a relation and left side minus right side, turned so that the sign is =, < or <=."""
    if not isinstance(one, Relation) or len(one.sides) != 2:
        return None
    left, right = (value(side.text) if isinstance(side, Leaf) else None for side in one.sides)
    if not (isinstance(left, sympy.Expr) and isinstance(right, sympy.Expr)):
        return None
    sign = one.signs[0]
    if sign in FLIPPED:
        return FLIPPED[sign], right - left
    return sign, left - right


def _value(leaf: Leaf) -> Value | None:
    try:
        return value(quantity(leaf.text).value)
    except TooComplexError:
        return None


def _is_constant(one: Form) -> bool:
    """A number, or a collection of numbers."""
    match one:
        case Leaf():
            return (found := _value(one)) is not None and not found.free_symbols
        case GroupedForms():
            return all(map(_is_constant, one.items))
        case Union():
            return all(map(_is_constant, one.parts))
    return False


def _is_description(side: Form, result: Form) -> bool:
    if not isinstance(side, Leaf):
        return not isinstance(side, Relation)
    found = _value(side)
    if found is None or DESCRIPTION.fullmatch(side.text):
        return LETTER.search(side.text) is not None
    is_zero = isinstance(result, Leaf) and _value(result) == 0  # any equation can be brought to the form ... = 0
    return isinstance(found, (sympy.Symbol, sympy.Abs)) or (len(found.free_symbols) > 1 and not is_zero)
