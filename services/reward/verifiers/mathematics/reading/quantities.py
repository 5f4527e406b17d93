r"""A number and its unit. A unit may be dropped; two units of different meaning make two different quantities."""

import re
from dataclasses import dataclass
from fractions import Fraction

from services.reward.verifiers.mathematics.reading.unit_names import (
    CANONICAL,
    CANONICAL_OF_IDEOGRAPHS,
    HALVES_OF_THE_DAY,
    JUDGEMENTS,
    SCALES,
    TEMPERATURES,
)

WORDS = r"\\text\{[^{}0-9]*\}"
POWER = r"(?:\s*\^\s*\{?[23]\}?)?"
LONG_NAMES = "|".join(
    sorted((re.escape(name) for name in CANONICAL if len(name) > 1 and name != "%"), key=len, reverse=True)
)
UNIT = re.compile(
    rf"(?P<rest>.*?[\d}})a-z.|])\s*(?P<unit>"
    rf"(?:/?\s*{WORDS}{POWER}\s*)+"
    rf"|\\frac\{{\s*{WORDS}{POWER}\s*\}}\{{\s*{WORDS}{POWER}\s*\}}"
    rf"|/?(?<![a-zA-Z\\])(?:square\s+|cubic\s+|sq\.?\s+)?(?:{LONG_NAMES}|USD|EUR)s?{POWER}(?:\s*/\s*(?:{LONG_NAMES}|[hs]){POWER})?\.?"
    rf"|(?:(?<=:\d\d)|(?<=:\d\d\s))[AaPp]\.?\s?[Mm]\.?"
    rf"|(?<=[\d}})])\s+[a-z]{{3,}}(?:\s+[a-z]+){{0,3}}"
    rf"|\\?%|\^\s*\{{?\s*\\circ\s*\}}?\s*[CF]?)",
    re.DOTALL,
)
ANGLE_FUNCTION = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)")
COMMAND = re.compile(r"\\(?:text|frac)")
FRACTION = re.compile(r"\\frac\{(.*)\}\{(.*)\}", re.DOTALL)
IDEOGRAPHS = re.compile("[\u3040-\u30fa\u3400-\u9fff\uac00-\ud7a3]+")
WORD = re.compile(r"(?:[^\W\d_]|[%'])+|[23]|\^|/")
PART = r"(\d+)\s*(?:\\text\{\s*)?([a-z]+)\.?(?:\s*,?\s*and)?\s*\}?\s*"
SEVERAL_UNITS = re.compile(rf"{PART}{PART}(?:{PART})?")  # 2 hours 30 minutes
SIMPLE_UNIT = re.compile(r"([a-z]+)([23]?)")
PERCENT = frozenset(("percent", "%", "pct"))
POWERS_IN_WORDS = {"square": "2", "sq": "2", "squared": "2", "cubic": "3", "cubed": "3"}


@dataclass(frozen=True, slots=True)
class Quantity:
    """What stands before the unit, and the unit: canonical when it is a known one."""

    value: str
    unit: str = ""  # as written, for text
    known_unit: str = ""  # comparable


def quantity(text: str) -> Quantity:
    """Splits a trailing unit off an answer in plain notation; without a unit the value is the whole."""
    if (found := SEVERAL_UNITS.fullmatch(text)) and (total := _total(found)):
        return total
    found = UNIT.fullmatch(text)
    if found is None or found["rest"].rstrip().endswith(("+", "-", "=", "<", ">", "\\cdot", ",")):
        return Quantity(text)
    if ideographs := IDEOGRAPHS.findall(found["unit"]):
        known = CANONICAL_OF_IDEOGRAPHS.get("".join(ideographs))
        return Quantity(text) if known is None else Quantity(found["rest"].strip(), found["unit"], known)
    unit = FRACTION.sub(r"\1/\2", found["unit"].replace("\\circ", " degree ").replace(".", ""))
    words = WORD.findall(COMMAND.sub(" ", unit).lower())
    is_angle_of_function = "degree" in words and ANGLE_FUNCTION.search(found["rest"])
    is_power_alone = bool(words) and all(word in POWERS_IN_WORDS for word in words)  # 10 squared is 100
    is_share = "of" in words and not PERCENT.isdisjoint(words)  # 3 percent of x is no number
    if not JUDGEMENTS.isdisjoint(words) or is_share or is_angle_of_function or is_power_alone:
        return Quantity(text)
    return Quantity(found["rest"].strip(), found["unit"], _known_unit(words))


def is_percentage(one: Quantity) -> bool:
    return one.known_unit == "percent"


def is_angle(one: Quantity) -> bool:
    return one.known_unit == "degree"


def conversion(gold: Quantity, answer: Quantity) -> Fraction | None:
    """What one unit of the answer is in the ground truth's; None for units of different meaning.

    It is 1 where one of them is dropped or not known. A degree may be one of temperature.
    """
    left, right = gold.known_unit.removeprefix("degree"), answer.known_unit.removeprefix("degree")
    if {gold.known_unit, answer.known_unit} <= TEMPERATURES:
        return Fraction(1) if not (left and right) or left == right else None
    if not (gold.known_unit and answer.known_unit) or gold.known_unit == answer.known_unit:
        return Fraction(1)
    one, other = _scale(gold.known_unit), _scale(answer.known_unit)
    return other[1] / one[1] if one and other and one[0] == other[0] else None


def _scale(known_unit: str) -> tuple[tuple[tuple[str, int], ...], Fraction] | None:
    """What a unit like "cm2" or "km/h" measures, and its size; None for others."""
    measures, size = [], Fraction(1)
    for place, part in enumerate(known_unit.split("/")):
        found = SIMPLE_UNIT.fullmatch(part)
        if found is None or found[1] not in SCALES:
            return None
        measure, one = SCALES[found[1]]
        power = int(found[2] or 1) * (-1 if place else 1)
        measures.append((measure, power))
        size *= one**power
    return tuple(measures), size


def _total(found: re.Match[str]) -> Quantity | None:
    """Of 2 hours 30 minutes: 150 minutes; None where the units do not measure the same, each a smaller one."""
    written = [one for one in found.groups() if one is not None]
    parts = [(int(number), _canonical(word)) for number, word in zip(written[::2], written[1::2], strict=True)]
    scales = [SCALES.get(unit) for _, unit in parts]
    sizes = [scale[1] for scale in scales if scale is not None]
    if len(sizes) < len(parts) or len({scale[0] for scale in scales if scale}) > 1 or sizes != sorted(set(sizes))[::-1]:
        return None
    total = sum(number * size / sizes[-1] for (number, _), size in zip(parts, sizes, strict=True))
    return Quantity(str(total), found[0], parts[-1][1]) if total.denominator == 1 else None


def _canonical(word: str) -> str:
    return CANONICAL.get(word) or CANONICAL.get(word.removesuffix("s")) or ""


def _known_unit(words: list[str]) -> str:
    """The unit in one spelling, as "cm2" or "km/h"; empty when a word is none of the known."""
    names = []
    power = ""
    for word in words:
        if word in POWERS_IN_WORDS:
            power = POWERS_IN_WORDS[word]
        elif word == "per":
            names.append("/")
        elif word in ("^", "/", "2", "3"):
            names.append(word.replace("^", ""))
        elif name := HALVES_OF_THE_DAY.get(word) or _canonical(word):
            names.append(name)
        else:
            return ""
    return "".join(names) + power
