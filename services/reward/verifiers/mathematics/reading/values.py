"""Expressions as sympy values: parsed without evaluation, then evaluated from the leaves up, under bounds.

sympy computes 9^(9^9) as soon as it sees it. So the LaTeX grammar of latex2sympy2_extended builds an unevaluated
tree, and each operation is done here only when its result will be small.
"""

import functools
import math
import re
from typing import Any, TypeAlias

import sympy
from latex2sympy2_extended import latex2sympy
from latex2sympy2_extended.latex2sympy2 import ConversionConfig
from sympy.core.function import AppliedUndef

from services.reward.verifiers.mathematics.reading.forms import TooComplexError

MAX_CHARS = 300
MAX_NODES = 300
MAX_DIGITS = 4000  # of a number that is written or arises
MAX_POWER = 200  # of an expression with symbols
MAX_MATRIX_POWER = 20
MAX_COUNTED_POWER = 3  # of a symbol in the argument of a factorial
MAX_GROWTH = 1000  # argument of exp, factorial and their like; terms of a sum
# the grammar evaluates these while it reads, so their arguments have to be small as written
EAGER = re.compile(r"\\(?:binom|gcd|lcm|det)|\\text\{(?:gcd|lcm)\}|\\operatorname|matrix")
LONG_NUMBER = re.compile(r"\d{5}|\^|!")
NOT_ONE_NUMBER = re.compile(r"\d\s*_|\d\s+\d|!\s*!")  # with its base; two side by side; n!!, to the grammar (n!)!
NUMBER_TIMES_GROUP = re.compile(r"(?<=\d)\s*\(")
POWER_OF_FUNCTION = re.compile(r"(\\(?:sin|cos|tan|cot|sec|csc|ln|log)\s*\^)\s*(\d)(?=\s*\()")  # \sin^2(x)
MIXED_NUMBER = re.compile(r"(?<![\d}^])(\d+)\s*\\frac\{(\d+)\}\{(\d+)\}")
CONFIG = ConversionConfig(interpret_as_mixed_fractions=False, lowercase_symbols=False)
COUNTING = (sympy.factorial, sympy.factorial2, sympy.gamma, sympy.binomial)
GROWING = (sympy.exp, sympy.sinh, sympy.cosh, sympy.factorial, sympy.gamma, sympy.factorial2)
BOUND_VARIABLES = (sympy.Sum, sympy.Product)
UNFINISHED = (sympy.Integral, sympy.Limit, sympy.Derivative)  # questions rather than answers, and costly ones

Value: TypeAlias = Any  # a sympy expression, set or matrix; sympy carries no types


@functools.lru_cache(maxsize=4096)
def value(text: str) -> Value | None:
    """The value of an expression in plain notation; None when it is not one. Raises TooComplexError."""
    if len(text) > MAX_CHARS or (EAGER.search(text) and LONG_NUMBER.search(text) and "matrix" not in text):
        raise TooComplexError(f"an expression of {len(text)} characters")
    if not text or NOT_ONE_NUMBER.search(text):
        return None
    text = POWER_OF_FUNCTION.sub(r"\1{\2}", MIXED_NUMBER.sub(_sum, text))
    tree = _tree(NUMBER_TIMES_GROUP.sub(r"\\cdot (", text))
    if tree is None:
        return None
    found = _evaluated(tree)
    return None if found.has(sympy.nan, sympy.zoo) else found  # 1/0 equals nothing, not even 2/0


def _tree(text: str) -> Value | None:
    try:
        tree = latex2sympy(
            text, is_real=None, convert_degrees=True, conversion_config=CONFIG, normalization_config=None
        )
    except RecursionError:
        raise TooComplexError("an expression nested too deeply") from None
    except Exception:  # the grammar raises bare Exception, AttributeError, ... for what it cannot read
        return None
    return tree if isinstance(tree, (sympy.Basic, sympy.MatrixBase)) else None


def _sum(found: re.Match[str]) -> str:
    r"""2\frac{1}{3} is 2 + 1/3, unless the fraction is improper."""
    whole, numerator, denominator = found.groups()
    is_mixed = len(numerator) < len(denominator) or (len(numerator) == len(denominator) and numerator < denominator)
    sign = "+" if is_mixed else r"\cdot "
    return rf"({whole}{sign}\frac{{{numerator}}}{{{denominator}}})"


def _evaluated(tree: sympy.Basic) -> sympy.Basic:
    """The tree with each operation carried out, inner ones first."""
    if tree.has(*UNFINISHED):
        raise TooComplexError("an integral, limit or derivative left to be worked out")
    if sum(1 for _ in zip(sympy.preorder_traversal(tree), range(MAX_NODES + 1), strict=False)) > MAX_NODES:
        raise TooComplexError(f"an expression of more than {MAX_NODES} terms")
    return _bounded(_rebuilt(tree, imaginary_unit=not tree.has(*BOUND_VARIABLES)))


def _rebuilt(tree: sympy.Basic, *, imaginary_unit: bool) -> sympy.Basic:
    if isinstance(tree, sympy.Symbol):
        return sympy.I if imaginary_unit and tree.name == "i" else sympy.Symbol(tree.name)
    if isinstance(tree, sympy.MatrixBase):
        return tree.applyfunc(lambda entry: _rebuilt(entry, imaginary_unit=imaginary_unit))
    if not tree.args:
        return _bounded(tree)
    if isinstance(tree, sympy.UnevaluatedExpr):
        return _rebuilt(tree.args[0], imaginary_unit=imaginary_unit)
    arguments = [_rebuilt(argument, imaginary_unit=imaginary_unit) for argument in tree.args]
    if isinstance(tree, AppliedUndef):
        return sympy.Symbol(f"{tree.func.__name__}({', '.join(map(str, arguments))})")
    _require_small_result(tree, arguments)
    result = _bounded(tree.func(*arguments))
    return _bounded(result.doit()) if isinstance(tree, (*BOUND_VARIABLES, sympy.MatrixExpr)) else result


def _require_small_result(operation: sympy.Basic, arguments: list[sympy.Basic]) -> None:
    """Refuse an operation whose result would be enormous, before it is done."""
    if isinstance(operation, sympy.MatPow):
        if _magnitude(arguments[1]) > MAX_MATRIX_POWER:
            raise TooComplexError("a large power of a matrix")
    elif isinstance(operation, sympy.Pow):
        _require_small_power(*arguments)
    elif isinstance(operation, GROWING) and _magnitude(arguments[0]) > MAX_GROWTH:
        raise TooComplexError(f"{operation.func.__name__} of a large number")
    elif isinstance(operation, COUNTING) and any(map(_grows_fast, arguments)):
        raise TooComplexError(f"{operation.func.__name__} of what grows fast itself")
    elif isinstance(operation, (sympy.Sum, sympy.Product)):
        for limits in arguments[1:]:
            if _magnitude(sympy.Add(limits.args[-1], -limits.args[-2])) > MAX_GROWTH:
                raise TooComplexError("a sum of many terms")


def _grows_fast(argument: sympy.Basic) -> bool:
    """Whether small numbers for its symbols would already make a factorial of it enormous."""
    powers = [power for power in argument.atoms(sympy.Pow) if power.free_symbols]
    return bool(argument.free_symbols) and (
        argument.has(*COUNTING) or any(one.exp.free_symbols or one.exp > MAX_COUNTED_POWER for one in powers)
    )


def _require_small_power(base: sympy.Basic, exponent: sympy.Basic) -> None:
    size = _magnitude(exponent)
    if base.free_symbols:
        if size > MAX_POWER:
            raise TooComplexError("a large power")
    elif base not in (sympy.S.Zero, sympy.S.One, sympy.S.NegativeOne) and size:
        digits = abs(float(sympy.log(sympy.Abs(base)).evalf(8))) / 2.3
        if digits * size > MAX_DIGITS:
            raise TooComplexError("a large power")
    if any(power.exp.free_symbols for power in exponent.atoms(sympy.Pow)):
        raise TooComplexError("a tower of powers")


def _magnitude(number: sympy.Basic) -> float:
    """The absolute value of a number, infinite when too large for a float; 0 for anything with symbols."""
    if number.free_symbols or not number.is_number or number.is_infinite:
        return 0.0
    try:
        return abs(complex(number.evalf(8)))
    except OverflowError:
        return math.inf


def _bounded(result: sympy.Basic) -> sympy.Basic:
    """The result, unless it holds a number of too many digits or a power that grew out of nested ones."""
    for number in result.atoms(sympy.Rational):
        if max(abs(number.p), number.q) >= 10**MAX_DIGITS:
            raise TooComplexError(f"a number of more than {MAX_DIGITS} digits")
    for power in result.atoms(sympy.Pow):
        if power.base.free_symbols and _magnitude(power.exp) > MAX_POWER:
            raise TooComplexError("a large power")
    return result
