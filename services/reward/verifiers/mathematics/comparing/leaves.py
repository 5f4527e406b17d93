"""Whether two leaves are equal: words by their letters, quantities by value and unit."""

import re

import sympy

from services.reward.verifiers.mathematics.comparing.equality import are_equal
from services.reward.verifiers.mathematics.reading.forms import Leaf
from services.reward.verifiers.mathematics.reading.quantities import (
    Quantity,
    are_units_compatible,
    is_angle,
    is_percentage,
    quantity,
)
from services.reward.verifiers.mathematics.reading.values import Value, value

TEXT = re.compile(r"\\text\{([^{}]*)\}")
PUNCTUATION = re.compile(r"[()\s.,:;?*\"]+")  # no "!": it is a factorial
WORDS = re.compile(r"[^\W\d_]+(?:[ '-][^\W\d_]+)*")
LETTERS_OF_A_WORD = 3  # fewer letters side by side may be a product, and a is not A
SHORT_WORDS = frozenset(("no",))
CLOCK = re.compile(r"(\d{1,2}):(\d{2})")


def are_equal_leaves(gold: str, answer: str) -> bool:
    """Whether the answer says the same word, or has the same value in the same unit or without one."""
    if is_prose(gold) or is_prose(answer):
        return words(gold).casefold() == words(answer).casefold()
    return _are_equal_quantities(gold, answer)


def is_readable(leaf: Leaf) -> bool:
    """Whether an answer can be compared with it. Raises TooComplexError."""
    number = quantity(leaf.text).value
    return is_prose(leaf.text) or CLOCK.fullmatch(number) is not None or value(number) is not None


def words(text: str) -> str:
    """The words that a text consists of, without punctuation; empty when it holds anything else."""
    bare = PUNCTUATION.sub(" ", TEXT.sub(r" \1 ", text)).strip()
    return bare if WORDS.fullmatch(bare) else ""


def is_prose(text: str) -> bool:
    """Whether it is words and not a product of letters."""
    found = words(text)
    is_long = len(found) >= LETTERS_OF_A_WORD or found.casefold() in SHORT_WORDS
    return bool(found) and (is_long or text.startswith(r"\text"))


def _are_equal_quantities(gold_text: str, answer_text: str) -> bool:
    gold, answer = quantity(gold_text), quantity(answer_text)
    if not are_units_compatible(gold, answer):
        return False
    if CLOCK.fullmatch(gold.value) and CLOCK.fullmatch(answer.value):
        return gold.value.lstrip("0") == answer.value.lstrip("0")  # 6:15 is 12:30 as a ratio, and not as a time
    left, right = value(gold.value), value(answer.value)
    if left is None or right is None:
        return False
    if is_angle(gold) != is_angle(answer):
        return are_equal(left, right) or are_equal(_radians(left, gold), _radians(right, answer))
    if is_percentage(gold) == is_percentage(answer):
        return are_equal(left, right)
    share = _hundredth(left) if is_percentage(gold) else left
    other = _hundredth(right) if is_percentage(answer) else right
    return are_equal(share, other) or (are_equal(left, right) and (is_percentage(gold) or _exceeds_one(left)))


def _radians(number: Value, one: Quantity) -> Value:
    return number * sympy.pi / 180 if is_angle(one) else number


def _hundredth(number: Value) -> Value:
    return number / sympy.Integer(100)


def _exceeds_one(number: Value) -> bool:
    """A ground truth like 25 was meant in percent; one like 0.5 was not."""
    return bool(isinstance(number, sympy.Expr) and number.is_number and sympy.Abs(number) > 1)
