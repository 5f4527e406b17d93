r"""Equations and assignments: x = 5 and 5; y = 2x + 3 and 2x - y + 3 = 0; a chain x = 2 + 3 = 5."""

import re
from collections.abc import Callable
from dataclasses import dataclass

import sympy

from services.reward.verifiers.mathematics.comparing.equality import is_constant_ratio
from services.reward.verifiers.mathematics.reading.forms import Form, Leaf, Relation
from services.reward.verifiers.mathematics.reading.values import value

NAME = re.compile(
    r"(?:m?\\(?:angle|triangle)\s*)?"
    r"(?:\\(?:text|overline|vec|widehat|mathbf)\s*\{[^{}]*\}|\\?[a-zA-Z]{1,12})"
    r"'*(?:_\{[^{}]*\})?(?:\^\{-1\})?'*\s*(?:\([^()\d]*\))?"
)
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
