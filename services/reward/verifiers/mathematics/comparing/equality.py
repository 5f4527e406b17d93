"""Whether two values are equal: exactly for rational numbers, else by evaluation to many digits.

Expressions with symbols are equal when they agree at random points of the domain that both share; two different
expressions of the size that answers have agree there by chance with a probability that does not matter.
"""

import random
from collections.abc import Iterator
from itertools import islice

import sympy

from services.reward.verifiers.mathematics.reading.values import Value

NUM_DIGITS = 20  # of a difference that is not zero
MAX_WORKING_DIGITS = 250  # spent on finding out whether it is
SMALLEST_DIFFERENCE = sympy.Float("1e-100")  # below it a number is zero unless a digit of it is known
NUM_POINTS = 6  # that have to agree
MAX_POINTS = 24  # tried, as some lie outside the domain
RANGES = ((0.1, 1.0), (1.0, 4.0), (-1.0, -0.1), (-4.0, -1.0))
DENOMINATORS = (500, 1500)  # of the coordinates, drawn: sin(997 pi x) is zero at all multiples of 1/997
LARGEST_INTEGERS = (12, 40)  # as a coordinate, by turns
LARGEST_ROUNDED = 10_000  # the same where roundings and remainders are all there is, which look like nothing when small
COUNTING = (sympy.factorial, sympy.binomial, sympy.Sum, sympy.Product)  # defined for integers
ROUNDING = (sympy.floor, sympy.ceiling, sympy.Mod)
NAMES_OF_INTEGERS = frozenset("ijklmnN")


def are_equal(gold: Value, answer: Value) -> bool:
    """Equal in value; sets, matrices and numbers are different kinds."""
    if isinstance(gold, sympy.MatrixBase) or isinstance(answer, sympy.MatrixBase):
        return _are_equal_matrices(gold, answer)
    if isinstance(gold, sympy.Set) or isinstance(answer, sympy.Set):
        return isinstance(gold, sympy.Set) and isinstance(answer, sympy.Set) and are_equal_sets(gold, answer)
    if not (isinstance(gold, sympy.Expr) and isinstance(answer, sympy.Expr)):
        return False
    return gold == answer or is_zero(gold - answer)


def are_close(gold: Value, answer: Value, tolerance: float) -> bool:
    """Numbers, or tuples and matrices of them, that differ by at most this share of the ground truth."""
    if isinstance(gold, sympy.MatrixBase) and isinstance(answer, sympy.MatrixBase):
        return gold.shape == answer.shape and all(
            are_close(left, right, tolerance) for left, right in zip(gold.flat(), answer.flat(), strict=True)
        )
    is_number = all(isinstance(one, sympy.Expr) and not one.free_symbols for one in (gold, answer))
    if not is_number:
        return False
    distance, size = (sympy.Abs(one).evalf(NUM_DIGITS) for one in (gold - answer, gold))
    return bool(distance.is_Float and size.is_number and distance <= tolerance * (size or 1))


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
        return not _is_known_to_a_digit(approximate)
    return False if approximate.is_real or may_be_complex else None


def _is_known_to_a_digit(approximate: sympy.Expr) -> bool:
    """Whether it is a small number, like e^-1000, and not what is left where terms cancel."""
    return any(part._prec > 1 for part in approximate.atoms(sympy.Float) if part != 0)


def _points(expression: sympy.Expr) -> Iterator[dict[sympy.Basic, sympy.Basic]]:
    """Random values for the symbols, the same for the same expression."""
    symbols = sorted(expression.free_symbols, key=str)
    source = random.Random(str(expression))
    is_counting, is_rounding = expression.has(*COUNTING), expression.has(*ROUNDING)
    grows = is_counting or any(power.exp.free_symbols for power in expression.atoms(sympy.Pow))
    for number in range(MAX_POINTS):
        low, high = RANGES[number % len(RANGES)]
        largest = LARGEST_INTEGERS[number % 2] if grows or number % 3 == 0 else LARGEST_ROUNDED
        yield {
            symbol: sympy.Integer(source.randint(1, largest))
            if is_counting or (is_rounding and (number % 3 == 1 or symbol.name[0] in NAMES_OF_INTEGERS))
            else _between(source, low, high)
            for symbol in symbols
        }


def _between(source: random.Random, low: float, high: float) -> sympy.Basic:
    denominator = source.randint(*DENOMINATORS)
    return sympy.Rational(round(source.uniform(low, high) * denominator), denominator)
