"""Whether two values are equal: exactly for rational numbers, else by evaluation to many digits.

Expressions with symbols are equal when they agree at random points of the domain that both share; two different
expressions of the size that answers have agree there by chance with a probability that does not matter.
"""

import random
from collections.abc import Iterator
from itertools import islice

import sympy

from services.reward.mathematics.values import Value

NUM_DIGITS = 20  # of a difference that is not zero
MAX_WORKING_DIGITS = 250  # spent on finding out whether it is
SMALLEST_DIFFERENCE = sympy.Float("1e-100")
NUM_POINTS = 6  # that have to agree
MAX_POINTS = 24  # tried, as some lie outside the domain
RANGES = ((0.1, 1.0), (1.0, 4.0), (-1.0, -0.1), (-4.0, -1.0))
DENOMINATOR = 997  # of the coordinates
LARGEST_INTEGER = 12  # as a coordinate
NEEDS_INTEGERS = (sympy.factorial, sympy.binomial, sympy.Mod, sympy.Sum, sympy.Product, sympy.floor, sympy.ceiling)


def are_equal(gold: Value, answer: Value) -> bool:
    """Equal in value; sets, matrices and numbers are different kinds."""
    if isinstance(gold, sympy.MatrixBase) or isinstance(answer, sympy.MatrixBase):
        return _are_equal_matrices(gold, answer)
    if isinstance(gold, sympy.Set) or isinstance(answer, sympy.Set):
        return isinstance(gold, sympy.Set) and isinstance(answer, sympy.Set) and are_equal_sets(gold, answer)
    if not (isinstance(gold, sympy.Expr) and isinstance(answer, sympy.Expr)):
        return False
    return gold == answer or is_zero(gold - answer)


def are_equal_sets(gold: sympy.Set, answer: sympy.Set) -> bool:
    """Without an element that only one of them has."""
    return gold == answer or gold.symmetric_difference(answer).is_empty is True


def is_zero(difference: sympy.Expr) -> bool:
    """Whether an expression is zero wherever it is defined."""
    if not difference.free_symbols:
        return _is_zero_number(difference) is True
    may_be_complex = difference.has(sympy.I)
    verdicts = (
        _is_zero_number(difference.xreplace(point).doit(), may_be_complex=may_be_complex)
        for point in _points(difference)
    )
    decided = list(islice((verdict for verdict in verdicts if verdict is not None), NUM_POINTS))
    return len(decided) == NUM_POINTS and all(decided)


def is_constant_ratio(gold: sympy.Expr, answer: sympy.Expr, *, is_positive: bool) -> bool:
    """Whether gold = c * answer for a rational number c that is not zero, or that is positive."""
    for point in _points(gold * answer):
        top, bottom = (one.xreplace(point).evalf(NUM_DIGITS) for one in (gold, answer))
        if top.is_real and bottom.is_real and bottom.is_zero is False and top.is_zero is False:
            ratio = sympy.nsimplify(top / bottom, rational=True, tolerance=1e-12)
            return not (is_positive and ratio.is_negative) and is_zero(gold - ratio * answer)
    return False


def _are_equal_matrices(gold: Value, answer: Value) -> bool:
    if not (isinstance(gold, sympy.MatrixBase) and isinstance(answer, sympy.MatrixBase)):
        return False
    return gold.shape == answer.shape and all(map(are_equal, gold.flat(), answer.flat()))


def _is_zero_number(number: sympy.Expr, *, may_be_complex: bool = True) -> bool | None:
    """None where the difference is undefined, or not real though it was written without i: outside the domain."""
    if isinstance(number, sympy.Rational):
        return bool(number == 0)
    approximate = number.evalf(NUM_DIGITS, maxn=MAX_WORKING_DIGITS)
    if not approximate.is_number or approximate.is_finite is not True:
        return None
    if abs(approximate) < SMALLEST_DIFFERENCE:
        return True
    return False if approximate.is_real or may_be_complex else None


def _points(expression: sympy.Expr) -> Iterator[dict[sympy.Basic, sympy.Basic]]:
    """Random values for the symbols, the same for the same expression."""
    symbols = sorted(expression.free_symbols, key=str)
    source = random.Random(str(expression))
    needs_integers = expression.has(*NEEDS_INTEGERS)
    for number in range(MAX_POINTS):
        low, high = RANGES[number % len(RANGES)]
        yield {symbol: _coordinate(source, low, high, needs_integers=needs_integers) for symbol in symbols}


def _coordinate(source: random.Random, low: float, high: float, *, needs_integers: bool) -> sympy.Basic:
    if needs_integers:
        return sympy.Integer(source.randint(1, LARGEST_INTEGER))
    return sympy.Rational(round(source.uniform(low, high) * DENOMINATOR), DENOMINATOR)
