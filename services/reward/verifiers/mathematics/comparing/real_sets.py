"""Sets of real numbers however they are written: intervals, unions, inequalities, finite sets."""

from dataclasses import dataclass
from functools import reduce

import sympy

from services.reward.verifiers.mathematics.comparing.equality import are_equal_sets
from services.reward.verifiers.mathematics.reading.forms import Form, GroupedForms, Leaf, Relation, Residues, Union
from services.reward.verifiers.mathematics.reading.quantities import quantity
from services.reward.verifiers.mathematics.reading.values import value

STRICT = frozenset("<>")
UPWARDS = frozenset(("<", r"\le"))
DOWNWARDS = frozenset((">", r"\ge"))


@dataclass(frozen=True, slots=True)
class Distance:
    """scale * |x - centre|."""

    centre: sympy.Expr
    scale: sympy.Expr


def are_equal_real_sets(gold: Form, answer: Form) -> bool:
    """Whether both are sets of real numbers with the same elements."""
    left, right = real_set(gold), real_set(answer)
    return left is not None and right is not None and are_equal_sets(left, right)


def real_set(one: Form) -> sympy.Set | None:
    """The set that a form stands for; None when it is none."""
    if isinstance(one, Residues):
        return None
    if isinstance(one, Leaf):
        found = value(one.text)
        return found if isinstance(found, sympy.Set) else None
    if isinstance(one, Union):
        return _union(one.parts)
    if isinstance(one, Relation):
        return _inequality(one)
    if one.left == "":
        return _union(one.items) if one.right == r"\lor" else _both(one.items)
    return _finite(one) if one.left == r"\{" else _interval(one)


def _union(parts: tuple[Form, ...]) -> sympy.Set | None:
    sets = [real_set(part) for part in parts]
    return None if None in sets else sympy.Union(*sets)


def _both(items: tuple[Form, ...]) -> sympy.Set | None:
    """0 < x and x < 1; None where the parts exclude each other, as then a comma was an "or"."""
    if not all(isinstance(item, Relation) and set(item.signs) <= UPWARDS | DOWNWARDS | {r"\ne"} for item in items):
        return None
    sets = [real_set(item) for item in items]
    found = None if None in sets else sympy.Intersection(*sets)
    return found if found is not None and found.is_empty is False else None


def _finite(group: GroupedForms) -> sympy.Set | None:
    elements = [_real_number(item) for item in group.items]
    return None if None in elements else sympy.FiniteSet(*elements)


def _interval(group: GroupedForms) -> sympy.Set | None:
    ends = [_real_number(item) for item in group.items]
    if len(ends) != 2 or ends[0] is None or ends[1] is None or not ends[0] < ends[1]:
        return None
    return sympy.Interval(*ends, left_open=group.left == "(", right_open=group.right == ")")


def _inequality(relation: Relation) -> sympy.Set | None:
    """The numbers for which a chain like 0 < x <= 1 holds, with one symbol, or with its distance from a number."""
    distances = [(index, found) for index, side in enumerate(relation.sides) if (found := _distance(side))]
    symbols = [index for index, side in enumerate(relation.sides) if _is_symbol(side)]
    if len(symbols) + len(distances) != 1:
        return None
    place = symbols[0] if symbols else distances[0][0]
    conditions = [
        _condition(side, relation.signs[place - 1] if index < place else relation.signs[place], is_left=index < place)
        for index, side in enumerate(relation.sides)
        if abs(index - place) == 1
    ]
    if len(relation.sides) > len(conditions) + 1 or None in conditions:
        return None
    found = reduce(sympy.Intersection, conditions)
    return found if symbols else _within(found, distances[0][1])


def _condition(side: Form, sign: str, *, is_left: bool) -> sympy.Set | None:
    """The numbers x for which `side sign x` holds (is_left), or `x sign side`."""
    if sign == r"\in":
        return None if is_left else real_set(side)
    bound = _real_number(side)
    if bound is None:
        return None
    if sign == r"\ne":
        return sympy.Complement(sympy.S.Reals, sympy.FiniteSet(bound))
    if sign not in UPWARDS | DOWNWARDS:
        return None
    if (sign in UPWARDS) == is_left:
        return sympy.Interval(bound, sympy.oo, left_open=sign in STRICT, right_open=True)
    return sympy.Interval(-sympy.oo, bound, left_open=True, right_open=sign in STRICT)


def _distance(side: Form) -> Distance | None:
    """|a x + b| with numbers a and b: how far x is from a number."""
    found = value(side.text) if isinstance(side, Leaf) else None
    if not isinstance(found, sympy.Abs) or len(found.free_symbols) != 1:
        return None
    (symbol,) = found.free_symbols
    slope, constant = found.args[0].coeff(symbol, 1), found.args[0].coeff(symbol, 0)
    is_line = (found.args[0] - slope * symbol - constant).expand() == 0
    if not is_line or not all(number.is_number and number.is_real for number in (slope, constant)):
        return None
    return Distance(-constant / slope, sympy.Abs(slope))


def _within(sizes: sympy.Set, distance: Distance) -> sympy.Set:
    """The numbers x for which scale * |x - centre| is one of the sizes."""
    outwards = sympy.Intersection(sizes, sympy.Interval(0, sympy.oo))
    size = sympy.Dummy(real=True)
    sides = (sympy.Lambda(size, distance.centre + sign * size / distance.scale) for sign in (1, -1))
    return sympy.Union(*(sympy.imageset(side, outwards) for side in sides))


def _is_symbol(side: Form) -> bool:
    return isinstance(side, Leaf) and isinstance(value(side.text), sympy.Symbol)


def _real_number(side: Form) -> sympy.Expr | None:
    found = value(quantity(side.text).value) if isinstance(side, Leaf) else None
    is_real = isinstance(found, sympy.Expr) and found.is_number and found.is_extended_real
    return found if is_real else None
