r"""Numbers in one spelling: decimals as fractions of integers, other bases, repeating decimals, words that multiply."""

import math
import re

from services.reward.verifiers.mathematics.reading.spelling import BASES_IN_WORDS, MULTIPLIERS

MAX_BASE = 16
BASE = rf"\d{{1,2}}|{'|'.join(BASES_IN_WORDS)}"
DIGITS = r"\d[0-9A-Fa-f]*(?:\.[0-9A-Fa-f]+)?|[0-9A-F]{2,}"
BRACKETED_DIGITS = re.compile(rf"(?:\(\s*({DIGITS})\s*\)|\\text\{{\s*({DIGITS})\s*\}})\s*(?=_)")
SUBSCRIPTED_BASE = re.compile(
    rf"(?<=[0-9A-Fa-f])\s*_\s*\{{\s*\(?\s*(?:\\text\{{\s*({BASE})\s*\}}|({BASE}))\s*\)?\s*\}}"
)
NAMED_BASE = re.compile(
    r"(?<=[0-9A-F])\s*\(?\s*(?:\\text\{)?\s*,?\s*\(?\s*(?:in\s+)?base\s*\}?\s*(?:\\text\{)?\s*"
    rf"({BASE})()\s*\)?\s*\}}?\s*\)?\s*$"
)
WITH_BASE = re.compile(rf"(?<![\w.\\}}])({DIGITS})_\{{(\d{{1,2}})\}}")
TIMES_TEN = re.compile(r"(?<=\d)\s*[xX]\s*(?=10\s*\^)")
REPEATING_IN_BRACKETS = re.compile(r"(?<![\d.])(\d*\.\d*)\((\d+)\)(?!\s*[\d_^(])")
DOTTED_PERIOD = re.compile(r"(?<=[.\d])\\overline\s*\{?(\d)\}?(\d*)\\overline\s*\{?(\d)\}?")
ORDINAL = re.compile(
    r"(?<=\d)(?:\s*\^\s*\{?\s*\\text\{(?:st|nd|rd|th)\}\s*\}?|\s*\^\s*\{(?:st|nd|rd|th)\}|(?:st|nd|rd|th)(?![a-zA-Z]))"
)
MULTIPLYING = "|".join(sorted(MULTIPLIERS, key=len, reverse=True))
MULTIPLYING_BARE = "|".join(sorted(MULTIPLIERS.keys() - {"k"}, key=len, reverse=True))  # 3k is a product
MULTIPLIED = re.compile(
    rf"(?<=\d)\s*(?:\\text\{{\s*\(?\s*({MULTIPLYING})(?![a-zA-Z\u0400-\u04ff])([^{{}}]*)\}}"
    rf"|({MULTIPLYING_BARE})(?![a-zA-Z\u0400-\u04ff]))"
)
REPEATING = re.compile(r"(\d*)\.(\d*)\\overline\s*(?:\{(\d+)\}|(\d))")
SCIENTIFIC = re.compile(r"(?<![\w.\\}])(\d+(?:\.\d+)?)[eE]([-+]?\d{1,3})(?![\w.])")
ENDLESS = re.compile(r"(?<![\d.])(\d*)\.(\d*?)(?:(\d)\3\3+|(\d{2,}?)\4+)\s*(?:\\[lc]?dots(?![a-z])|\.\.\.)")
DOUBLE_FACTORIAL = re.compile(r"(?<![\d.])(\d{1,2})\s*!\s*!(?!\s*!)")
DECIMAL = re.compile(r"(?<![\d.])(\d*)\.(\d+)(?![\d.])|(?<![\d.])(\d+)\.(?!\d)")


def with_bases(text: str) -> str:
    r"""(1101)_2, 1101_{\text{two}} and 1101 (base 2) as 1101_{2}."""
    text = BRACKETED_DIGITS.sub(lambda found: found[1] or found[2], text)
    for written in (SUBSCRIPTED_BASE, NAMED_BASE):
        text = written.sub(lambda found: f"_{{{_base(found[1] or found[2])}}}", text)
    return text


def with_multipliers(text: str) -> str:
    """5 million and 3 dozen are numbers; what is counted stays a unit."""
    return MULTIPLIED.sub(_multiplied, ORDINAL.sub("", text))


def with_plain_digits(text: str) -> str:
    """1.5 x 10^3 as a product, 0.(3) as a repeating decimal."""
    text = REPEATING_IN_BRACKETS.sub(r"\1\\overline{\2}", TIMES_TEN.sub(r"\\cdot ", text))
    return DOTTED_PERIOD.sub(r"\\overline{\1\2\3}", text)


def bases(text: str) -> frozenset[int]:
    """The bases other than ten in which its numbers are written."""
    return frozenset(int(base) for _, base in WITH_BASE.findall(text)) - {10}


def has_invalid_base(text: str) -> bool:
    """Whether a number has digits that its base does not have."""
    return any(_in_base_ten(found) == found[0] for found in WITH_BASE.finditer(text))


def with_values(text: str) -> str:
    """Decimals of all kinds as fractions of integers, and numbers of another base in base ten."""
    text = SCIENTIFIC.sub(r"\1\\cdot 10^{\2}", WITH_BASE.sub(_in_base_ten, text))
    text = DOUBLE_FACTORIAL.sub(lambda found: str(math.prod(range(int(found[1]), 0, -2))), text)
    text = ENDLESS.sub(lambda found: rf"{found[1]}.{found[2]}\overline{{{found[3] or found[4]}}}", text)
    return DECIMAL.sub(_decimal, REPEATING.sub(_repeating, text))


def _base(written: str) -> str:
    return BASES_IN_WORDS.get(written, written)


def _multiplied(found: re.Match[str]) -> str:
    unit = rf"\text{{{found[2].strip()}}}" if found[2] and found[2].strip() else " "
    return rf"\cdot {MULTIPLIERS[found[1] or found[3]]}{unit}"


def _decimal(found: re.Match[str]) -> str:
    whole, digits, integer = found.groups()
    if integer is not None:
        return integer
    digits = digits.rstrip("0")
    numerator = f"{whole}{digits}".lstrip("0") or "0"
    value = rf"\frac{{{numerator}}}{{1{'0' * len(digits)}}}" if digits else whole or "0"
    return f"({value})" if found.string[found.end() :].lstrip()[:1] in ("^", "!") else value


def _in_base_ten(found: re.Match[str]) -> str:
    whole, _, fraction = found[1].partition(".")
    base = int(found[2])
    if not (2 <= base <= MAX_BASE and all(int(digit, 16) < base for digit in whole + fraction)):
        return found[0]
    if not fraction:
        return str(int(whole, base))
    return rf"\frac{{{int(whole + fraction, base)}}}{{{base ** len(fraction)}}}"


def _repeating(found: re.Match[str]) -> str:
    r"""0.1\overline{6} is (16 - 1) / 90."""
    whole, steady, period = found[1] or "0", found[2], found[3] or found[4]
    numerator = int(whole + steady + period) - int(whole + steady)
    return rf"\frac{{{numerator}}}{{{'9' * len(period)}{'0' * len(steady)}}}"
