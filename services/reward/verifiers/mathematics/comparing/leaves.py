"""Whether two leaves are equal: words by their letters, quantities by value and unit."""

import re
from dataclasses import dataclass

import sympy

from services.reward.verifiers.mathematics.comparing.equality import are_close, are_equal
from services.reward.verifiers.mathematics.comparing.restating import Strictness, restates
from services.reward.verifiers.mathematics.reading.forms import Leaf
from services.reward.verifiers.mathematics.reading.quantities import (
    Quantity,
    conversion,
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
SENTENCE = re.compile(
    r"^(?:(?:[Ii]t|[Tt]his|[Tt]he (?:series|integral|sequence|function|expression|limit|statement|curve|graph)) )?"
    r"(?:(?:is|are) )?(?:an? |An |[Tt]he |on )?(?=\S)"
)
SAME_WORDS = {
    **dict.fromkeys(("divergent", "diverge"), "diverges"),
    **dict.fromkeys(("convergent", "converge"), "converges"),
    **{"not defined": "undefined", "yes it is": "yes", "no it is not": "no", "是的": "是", "正确": "对"},
}
CLOCK = re.compile(r"([01]?\d|2[0-4]):([0-5]\d)")
SAME_DIGITS = r"\\frac\{{{0}\}}\{{{1}\}}|{0}\s*[:/]\s*{1}"  # of a time: 3:10 may have been a ratio


@dataclass(frozen=True, slots=True)
class Rules:
    """What a verdict depends on besides the answer."""

    strict: Strictness = "auto"
    tolerance: float = 0.0  # of numbers, in proportion to the ground truth


def are_equal_leaves(gold: str, answer: str, rules: Rules) -> bool:
    """Whether the answer says the same word, or has the same value in the same unit or without one."""
    if is_prose(gold) or is_prose(answer):
        return _said(gold) == _said(answer)
    return _are_equal_quantities(quantity(gold), quantity(answer), rules)


def _said(text: str) -> str:
    """The words without what only makes a sentence of them: it is a circle."""
    said = SENTENCE.sub("", words(text)).casefold()
    return SAME_WORDS.get(said, said)


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
    is_long = len(found) >= LETTERS_OF_A_WORD or not found.isascii() or found.casefold() in SHORT_WORDS
    return bool(found) and (is_long or text.startswith(r"\text"))


def _are_equal_quantities(gold: Quantity, answer: Quantity, rules: Rules) -> bool:
    ratio = conversion(gold, answer)
    if ratio is None or restates(gold.value, answer.value, rules.strict):
        return False
    if CLOCK.fullmatch(gold.value) or CLOCK.fullmatch(answer.value):
        return _is_same_time(gold.value, answer.value)
    left, right = value(gold.value), value(answer.value)
    if left is None or right is None:
        return False
    if ratio != 1:
        right = right * sympy.Rational(ratio.numerator, ratio.denominator)
    if is_angle(gold) != is_angle(answer):
        return _agree(left, right, rules) or _agree(_radians(left, gold), _radians(right, answer), rules)
    if is_percentage(gold) == is_percentage(answer):
        return _agree(left, right, rules)
    share = _hundredth(left) if is_percentage(gold) else left
    other = _hundredth(right) if is_percentage(answer) else right
    return _agree(share, other, rules) or (_agree(left, right, rules) and (is_percentage(gold) or _exceeds_one(left)))


def _agree(gold: Value, answer: Value, rules: Rules) -> bool:
    return are_equal(gold, answer) or (rules.tolerance > 0 and are_close(gold, answer, rules.tolerance))


def _is_same_time(gold: str, answer: str) -> bool:
    """6:15 is 12:30 as a ratio, and not as a time."""
    for time, other in ((gold, answer), (answer, gold)):
        if found := CLOCK.fullmatch(time):
            same = re.fullmatch(SAME_DIGITS.format(found[1].lstrip("0") or "0", found[2]), other.lstrip("0"))
            return same is not None or other.lstrip("0") == time.lstrip("0")
    return False


def _radians(number: Value, one: Quantity) -> Value:
    return number * sympy.pi / 180 if is_angle(one) else number


def _hundredth(number: Value) -> Value:
    return number / sympy.Integer(100)


def _exceeds_one(number: Value) -> bool:
    """A ground truth like 25 was meant in percent; one like 0.5 was not."""
    return bool(isinstance(number, sympy.Expr) and number.is_number and sympy.Abs(number) > 1)
