r"""Numbers in words: two hundred and five, two thirds, minus three; and in Chinese."""

import re
from fractions import Fraction

SMALL_NUMBERS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
CARDINALS = {name: number for number, name in enumerate(SMALL_NUMBERS)} | {
    name: 10 * number for number, name in enumerate(TENS, start=2)
}
SCALES = {"hundred": 100, "thousand": 1000, "million": 10**6}
PARTS = {
    **{"half": 2, "halves": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7},
    **{"eighth": 8, "ninth": 9, "tenth": 10, "hundredth": 100},
}
SIGN = re.compile(r"\s*(?:\\text\{\s*)?(?:negative|minus)\b\s*\}?\s*(?=\S)", re.IGNORECASE)
CHINESE_DIGITS = {digit: number for number, digit in enumerate("〇一二三四五六七八九")} | {"零": 0, "两": 2, "兩": 2}
CHINESE_SCALES = {"十": 10, "百": 100, "千": 1000}
CHINESE_GROUPS = {"亿": 10**8, "億": 10**8, "万": 10**4, "萬": 10**4}
IN_CHINESE = "".join((*CHINESE_DIGITS, *CHINESE_SCALES, *CHINESE_GROUPS))
CHINESE_NUMBER = re.compile(
    rf"(?P<sign>负|負)?(?:(?P<percent>百分之)|(?P<parts>[{IN_CHINESE}]+)分之)?(?P<number>[{IN_CHINESE}]+)"
)


def number_in_words(text: str) -> str | None:
    """The number that a whole answer says in words; None for other words."""
    if chinese := _in_chinese(re.sub(r"\\text|[{}.\s]", "", text)):
        return chinese
    sign = SIGN.match(text)
    words = re.sub(r"[{}.]|\\text", " ", text[sign.end() :] if sign else text).casefold().replace("-", " ").split()
    if sign and len(words) == 1 and words[0][0].isdecimal():
        return f"-{words[0]}"
    *before, last = words or [""]
    parts = PARTS.get(last) or PARTS.get(last.removesuffix("s"))
    number = _cardinal(before if parts else words)
    if number is None or (number == 0 and len(words) > 1):
        return None
    value = rf"\frac{{{number}}}{{{parts}}}" if parts else str(number)
    return f"-{value}" if sign else value


def _cardinal(words: list[str]) -> int | None:
    """Two hundred and five is 205."""
    total, group = 0, 0
    for index, word in enumerate(words):
        if word in CARDINALS and (group % 100 == 0 or (group % 10 == 0 and group % 100 > 10 and CARDINALS[word] < 10)):
            group += CARDINALS[word]
        elif word in SCALES and group:
            total, group = (total, group * 100) if word == "hundred" else (total + group * SCALES[word], 0)
        elif word != "and" or index == 0 or words[index - 1] not in SCALES or index + 1 == len(words):
            return None
    return total + group if words else None


def _in_chinese(words: str) -> str | None:
    """三分之二 is two thirds, and 百分之五 five percent."""
    found = CHINESE_NUMBER.fullmatch(words)
    number = _chinese_cardinal(found["number"]) if found else None
    parts = _chinese_cardinal(found["parts"]) if found and found["parts"] else 100 if found and found["percent"] else 1
    if found is None or number is None or not parts:
        return None
    share = Fraction(number, parts)
    value = str(number) if parts == 1 else rf"\frac{{{share.numerator}}}{{{share.denominator}}}"
    return f"-{value}" if found["sign"] else value


def _chinese_cardinal(words: str) -> int | None:
    """二百零五 is 205; digits alone, as in 二〇二四, are read one by one."""
    if len(words) > 1 and all(word in CHINESE_DIGITS for word in words):
        return int("".join(str(CHINESE_DIGITS[word]) for word in words))
    total, group, digit = 0, 0, None
    for word in words:
        if word in CHINESE_DIGITS:
            if digit:
                return None
            digit = CHINESE_DIGITS[word]
        elif word in CHINESE_SCALES:
            group, digit = group + (1 if digit is None else digit) * CHINESE_SCALES[word], None
        else:
            total, group, digit = (total + group + (digit or 0)) * CHINESE_GROUPS[word], 0, None
    number = total + group + (digit or 0)
    return number if number or words in ("零", "〇") else None
