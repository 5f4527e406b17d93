r"""Families with an integer parameter: k\pi for every integer k, whatever the parameter is called."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import lcm

import sympy

from services.reward.verifiers.mathematics.comparing.equality import are_equal, is_zero
from services.reward.verifiers.mathematics.comparing.relations import assigned_value
from services.reward.verifiers.mathematics.reading.forms import Form, GroupedForms, Leaf, Relation
from services.reward.verifiers.mathematics.reading.values import Value, value

INTEGERS, POSITIVE_INTEGERS = r"\mathbb{Z}", r"\mathbb{Z}^{+}"
INDICES = ("n", "m")  # of sequences; k runs through all integers
PARAMETER = sympy.Symbol("k", integer=True)
MAX_RESIDUES = 60  # of all progressions together, modulo their common step


@dataclass(frozen=True, slots=True)
class Family:
    """What its members look like, and the name of what runs through the integers."""

    members: tuple[Form, ...]
    parameter: str


@dataclass(frozen=True, slots=True)
class Progression:
    """start + k * step for every integer k."""

    start: sympy.Expr
    step: sympy.Expr


def family(one: Form) -> Family | None:
    r"""A list whose last item says `k \in \mathbb{Z}`."""
    if not isinstance(one, GroupedForms) or one.is_ordered or len(one.items) < 2:
        return None
    *members, declaration = one.items
    match declaration:
        case Relation(sides=(Leaf(parameter), Leaf(numbers)), signs=(r"\in",)) if numbers == INTEGERS:
            return Family(tuple(members), parameter)
    return None


def without_index(one: Form) -> Form:
    r"""The formula of a sequence without `n \in \mathbb{Z}^{+}`, which goes without saying."""
    match one:
        case GroupedForms(left="", items=(formula, Relation(sides=(Leaf(name), Leaf(numbers)), signs=(r"\in",)))):
            return formula if name in INDICES and numbers == POSITIVE_INTEGERS else one
    return one


def are_equal_families(gold: Form, answer: Form, are_equal_forms: Callable[[Form, Form], bool]) -> bool:
    """Whether both have the same members. Where one of them does not say what k is, it is what the other says."""
    left, right = family(gold), family(answer)
    if left is None and right is not None:
        left = Family((gold,), right.parameter)
    if right is None and left is not None:
        right = Family((answer,), left.parameter)
    if left is None or right is None:
        return False
    first, second = (_values(one, are_equal_forms) for one in (left, right))
    if first is None or second is None:
        return False
    left_lines, right_lines = _progressions(first), _progressions(second)
    if left_lines and right_lines:
        return _are_equal_unions(left_lines, right_lines)
    return len(first) == len(second) == 1 and are_equal(first[0], second[0])


def _values(one: Family, are_equal_forms: Callable[[Form, Form], bool]) -> list[Value] | None:
    """The members as expressions in one and the same parameter; None when one is no expression with it."""
    found = []
    for member in one.members:
        assigned = assigned_value(member, are_equal_forms)
        stated = assigned.value if assigned else None
        expression = value(stated.text) if isinstance(stated, Leaf) else None
        if not isinstance(expression, sympy.Expr) or sympy.Symbol(one.parameter) not in expression.free_symbols:
            return None
        found.append(expression.xreplace({sympy.Symbol(one.parameter): PARAMETER}))
    return found


def _progressions(members: Sequence[Value]) -> list[Progression] | None:
    """None when a member is no line in the parameter, or holds another symbol."""
    lines = []
    for member in members:
        start, step = (member.expand().coeff(PARAMETER, power) for power in (0, 1))
        is_line = (member - start - step * PARAMETER).expand() == 0
        if not is_line or step == 0 or not (start.is_number and step.is_number):
            return None
        lines.append(Progression(start, step))
    return lines


def _are_equal_unions(gold: list[Progression], answer: list[Progression]) -> bool:
    """Compared modulo a step that all steps divide."""
    unit = gold[0].step
    ratios = [_rational_ratio(line.step, unit) for line in (*gold, *answer)]
    numerators = [abs(ratio.p) for ratio in ratios if ratio is not None]
    if len(numerators) < len(ratios):
        return False
    common = lcm(*numerators) * unit  # a multiple of every step
    first, second = (_residues(lines, common) for lines in (gold, answer))
    if max(len(first), len(second)) > MAX_RESIDUES:
        return False
    return _covers(first, second, common) and _covers(second, first, common)


def _rational_ratio(step: sympy.Expr, unit: sympy.Expr) -> sympy.Rational | None:
    ratio = sympy.nsimplify((step / unit).evalf(30), rational=True, tolerance=1e-12)
    return ratio if ratio.is_Rational and is_zero(step - ratio * unit) else None


def _residues(lines: list[Progression], common: sympy.Expr) -> list[sympy.Expr]:
    counts = [abs(round(float((common / line.step).evalf(20)))) for line in lines]
    return [
        line.start + number * line.step
        for line, count in zip(lines, counts, strict=True)
        for number in range(min(count, MAX_RESIDUES + 1))
    ]


def _covers(some: list[sympy.Expr], others: list[sympy.Expr], common: sympy.Expr) -> bool:
    return all(any(_is_multiple(one - other, common) for other in others) for one in some)


def _is_multiple(difference: sympy.Expr, common: sympy.Expr) -> bool:
    number = sympy.Integer(round(float(sympy.re((difference / common).evalf(20)))))
    return is_zero(difference - number * common)
