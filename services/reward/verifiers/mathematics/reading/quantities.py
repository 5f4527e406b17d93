r"""A number and its unit. A unit may be dropped; two units of different meaning make two different quantities."""

import re
from dataclasses import dataclass

from services.reward.verifiers.mathematics.reading.unit_names import (
    CANONICAL,
    CANONICAL_OF_IDEOGRAPHS,
    HALVES_OF_THE_DAY,
    JUDGEMENTS,
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
WORD = re.compile(r"[a-z%']+|[23]|\^|/")
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
    found = UNIT.fullmatch(text)
    if found is None or found["rest"].rstrip().endswith(("+", "-", "=", "<", ">", "\\cdot", ",")):
        return Quantity(text)
    if ideographs := IDEOGRAPHS.findall(found["unit"]):
        known = CANONICAL_OF_IDEOGRAPHS.get("".join(ideographs))
        return Quantity(text) if known is None else Quantity(found["rest"].strip(), found["unit"], known)
    unit = FRACTION.sub(r"\1/\2", found["unit"].replace("\\circ", " degree ").replace(".", ""))
    words = WORD.findall(COMMAND.sub(" ", unit).lower())
    is_angle_of_function = "degree" in words and ANGLE_FUNCTION.search(found["rest"])
    is_power_alone = all(word in POWERS_IN_WORDS for word in words)  # 10 squared is 100
    is_share = "of" in words and not PERCENT.isdisjoint(words)  # 3 percent of x is no number
    if not JUDGEMENTS.isdisjoint(words) or is_share or is_angle_of_function or is_power_alone:
        return Quantity(text)
    return Quantity(found["rest"].strip(), found["unit"], _known_unit(words))


def is_percentage(one: Quantity) -> bool:
    return one.known_unit == "percent"


def is_angle(one: Quantity) -> bool:
    return one.known_unit == "degree"


def are_units_compatible(gold: Quantity, answer: Quantity) -> bool:
    """Whether one of them is dropped or not known, or both mean the same; a degree may be one of temperature."""
    left, right = gold.known_unit.removeprefix("degree"), answer.known_unit.removeprefix("degree")
    if {gold.known_unit, answer.known_unit} <= TEMPERATURES:
        return not (left and right) or left == right
    return not (gold.known_unit and answer.known_unit) or gold.known_unit == answer.known_unit


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
        elif name := HALVES_OF_THE_DAY.get(word) or CANONICAL.get(word) or CANONICAL.get(word.removesuffix("s")):
            names.append(name)
        else:
            return ""
    return "".join(names) + power
