r"""One notation for answers: Unicode, plain text and the many spellings of LaTeX become one plain LaTeX.

The result has no layout (dollar signs, spacing, \left), braces around every argument of \frac and \sqrt, \lor between
alternatives, words in \text{}, and decimals as fractions of integers, which have a value without rounding.
"""

import math
import re
import unicodedata

from services.reward.verifiers.mathematics.reading.spelling import (
    COMMANDS,
    CURRENCIES,
    FUNCTIONS,
    LAYOUT,
    SETS_IN_WORDS,
    SYMBOLS,
    ZEROS,
)

SYMBOL = re.compile("|".join(map(re.escape, SYMBOLS)))
COMMAND = re.compile(r"\\[a-zA-Z]+")
SPACING = re.compile(r"(?<!\\)\\[,;:! ]|~|\\(?:[hv]space|color|textcolor)\s*\{[^{}]*\}")
LABEL = re.compile(r"\s*(?:(?:the\s+)?(?:final\s+)?(?:answer|result|solution)\s*(?:is\b|:|=)\s*|=)", re.IGNORECASE)
PLAIN_MIXED = re.compile(r"(?<![\d.])(\d+)\s+(\d+)/(\d+)(?!\d)")
AMOUNT = re.compile(r"\s*([-+]?)\s*(\\\$|[€£¥])\s*(\d(?:[\d.,]|\{,\}|\\[,!])*)\s*")
DELIMITER = re.compile(r"(?<!\\)\\[()\[\]$]|[$€£¥]")
ARRAY = re.compile(r"\\(begin|end)\s*\{(?:array|matrix|smallmatrix|Bmatrix|bmatrix)\}(?:\s*\{[^{}]*\})?")
WRAPPER = re.compile(
    r"\\(?:text|textbf|textit|textrm|textsf|mathrm|mathbf|mathit|mathsf|mbox|hbox|operatorname|boldsymbol|bm)"
    r"\s*\{([^{}]*)\}"
)
UNWRAPPED = re.compile(r"\s*(?:[-+]?\d|(?:[^\Wg-hlms\d_]|[^a-zA-Z]*)\s*$)")  # g, h, l, m, s may be units
OR = re.compile(r"\s*(?:or|and/or)\s*", re.IGNORECASE)
AND = re.compile(r"\s*(?:and|,)\s*", re.IGNORECASE)
PLAIN_OR = re.compile(r"(?<![a-zA-Z\\{])\s+or\s+(?![a-zA-Z]{2,}\s)")
PLAIN_AND = re.compile(r"(?<=[\d)}a-zA-Z])(?<![a-zA-Z]{2})\s+and\s+(?=[-+\d(\\{]|[a-zA-Z](?![a-zA-Z]))")
PLAIN_FUNCTION = re.compile(rf"(?<![\\a-zA-Z])({'|'.join(FUNCTIONS)})(?![a-zA-Z])")
PLAIN_INFINITY = re.compile(r"(?<![\\a-zA-Z])(?:infinity|infty|inf|oo)(?![a-zA-Z])")
ARGUMENT = r"\s*(\{(?:[^{}]|\{[^{}]*\})*\}|\d|[a-zA-Z]|\\[a-zA-Z]+)"
FRACTION = re.compile(rf"\\frac(?!\s*\{{[^{{}}]*\}}\s*\{{){ARGUMENT}{ARGUMENT}")
ROOT_OF_ONE = re.compile(r"\\sqrt\s*(\[[^\[\]]*\])?\s*(\d+(?:\.\d+)?|[a-zA-Z]|\\pi)")
ROOT_OF_GROUP = re.compile(r"\\sqrt\s*(\[[^\[\]]*\])?\s*\(([^()]*)\)")
SUBSCRIPT = re.compile(r"_\s*(\w)")
POWER = re.compile(r"\^\s*(?:\(([^()]*)\)|(-?(?:\d*\.)?\d{2,}|-\d|\.\d))")
OVER = re.compile(r"\{([^{}]*)\\over(?![a-z])([^{}]*)\}")
THOUSANDS = re.compile(r"(?<![\d.,(\[])(?<!\\\{)\d{1,3}(?:(?:,\\!|,|\{,\}|\\,|\\ | )\d{3})+(?![\d])(?!,\d)")
CHOOSE = re.compile(r"\{([^{}]*)\\choose(?![a-z])([^{}]*)\}")
ORDINAL = re.compile(r"(?<=\d)(?:\s*\^\s*\{?\s*\\text\{(?:st|nd|rd|th)\}\s*\}?|(?:st|nd|rd|th)(?![a-zA-Z]))")
LARGE = re.compile(rf"(?<=\d)\s*(?:\\text\{{\s*({'|'.join(ZEROS)})\b([^{{}}]*)\}}|({'|'.join(ZEROS)})\b)")
REPEATING = re.compile(r"(\d*)\.(\d*)\\overline\s*(?:\{(\d+)\}|(\d))")
SCIENTIFIC = re.compile(r"(?<![\w.\\}])(\d+(?:\.\d+)?)[eE]([-+]?\d{1,3})(?![\w.])")
ENDLESS = re.compile(r"(?<![\d.])(\d*)\.(\d*?)(?:(\d)\3\3+|(\d{2,}?)\4+)\s*(?:\\[lc]?dots(?![a-z])|\.\.\.)")
DOUBLE_FACTORIAL = re.compile(r"(?<![\d.])(\d{1,2})\s*!\s*!(?!\s*!)")
WITHOUT = re.compile(r"(\\mathbb\s*\{R\})\s*-\s*(?=\\\{)")
INTEGERS = r"(?:\\mathbb\s*\{?\s*Z\s*\}?|\\Z|Z)"
OF_INTEGERS = re.compile(
    rf"(?<=[^\s,;:|(])[\s,;(]*(?:\\text\{{\s*,?\s*(?:for|where|with)(?:\s+(?:any|all|every|each|some))?\s*\}}\s*)?"
    rf"(?<![a-zA-Z])([a-zA-Z])\s*\\in\s*{INTEGERS}\s*\)?\s*$"
)
ANY_INTEGER = re.compile(
    r"[\s,;(]*(?:\\text\{)?[\s,]*(?:(?:for|where|with)\s+)?(?:(?:any|all|every|each|some|an)\s+)?"
    r"integers?(?:\s*\}\s*|\s+)([a-z])\s*\}?\s*\)?\s*$"
)
IS_INTEGER = re.compile(
    r"[\s,;(]*(?:\\text\{\s*,?\s*(?:for|where|with|and)?\s*\}?)?\s*(?<![a-zA-Z])([a-z])\s*(?:\\text\{)?\s*"
    r"(?:is|are|being|any|an)\s+(?:an\s+|any\s+)?integers?\s*\}?\s*\)?\s*$"
)
WITH_BASE = re.compile(r"(?<![\d.])(\d+)_\{(\d{1,2})\}")
DECIMAL = re.compile(r"(?<![\d.])(\d*)\.(\d+)(?![\d.])|(?<![\d.])(\d+)\.(?!\d)")


def plain(answer: str) -> str:
    """The answer in the one notation."""
    text = answer.translate({ord(character): " " for character in "\n\t\r\v\f"})
    text = unicodedata.normalize("NFKC", SYMBOL.sub(lambda found: SYMBOLS[found[0]], text))
    text = AMOUNT.sub(_amount, text) if AMOUNT.fullmatch(text) else text
    text = THOUSANDS.sub(lambda found: re.sub(r"\D", "", found[0]), DELIMITER.sub(" ", _without_commands(text)))
    text = ARRAY.sub(r"\\\1{pmatrix}", WRAPPER.sub(_words, SPACING.sub(" ", text)))
    text = WITHOUT.sub(r"\1\\setminus ", _with_parameter(_without_label(text)))
    text = PLAIN_OR.sub(r" \\lor ", PLAIN_AND.sub(" , ", text))
    text = LARGE.sub(_power_of_ten, ORDINAL.sub("", text))
    text = PLAIN_INFINITY.sub(r"\\infty ", PLAIN_FUNCTION.sub(r"\\\1 ", text))
    text = _with_values(_with_braces(text)).strip().rstrip(".,;:\\ ")
    words = text.removeprefix(r"\text{").removesuffix("}").strip(" .").casefold()
    return SETS_IN_WORDS.get(words, text)


def _amount(found: re.Match[str]) -> str:
    """The currency behind the number, where a unit stands."""
    return rf"{found[1]}{found[3]}\text{{ {CURRENCIES[found[2]]}}}"


def _with_parameter(text: str) -> str:
    """What runs through the integers, said in words or in signs, in one spelling at the end."""
    for declaration in (OF_INTEGERS, ANY_INTEGER, IS_INTEGER):
        if found := declaration.search(text):
            return rf"{text[: found.start()]} , {found[1]} \in \mathbb{{Z}}"
    return text


def _power_of_ten(found: re.Match[str]) -> str:
    """5 million is a number; what is counted stays a unit."""
    unit = rf"\text{{{found[2].strip()}}}" if found[2] and found[2].strip() else " "
    return rf"\cdot 10^{{{ZEROS[found[1] or found[3]]}}}{unit}"


def _without_commands(text: str) -> str:
    """Aliases replaced and layout commands removed."""
    return COMMAND.sub(lambda found: "" if found[0] in LAYOUT else COMMANDS.get(found[0], found[0]), text)


def _words(wrapper: re.Match[str]) -> str:
    r"""Text stays text; what begins with a number and a single letter are themselves; "or" and "and" are signs."""
    content = _without_label(wrapper[1])
    if OR.fullmatch(content):
        return r" \lor "
    if AND.fullmatch(content):
        return " , "
    return f" {content} " if UNWRAPPED.match(content) else rf"\text{{{content.strip()}}}"


def _without_label(text: str) -> str:
    """What follows "the answer is", or an equals sign without a left side."""
    label = LABEL.match(text)
    return text[label.end() :] if label else text


def _with_braces(text: str) -> str:
    """Arguments of roots and fractions in braces."""
    text = ROOT_OF_ONE.sub(lambda found: rf"\sqrt{found[1] or ''}{{{found[2]}}}", text)
    text = ROOT_OF_GROUP.sub(lambda found: rf"\sqrt{found[1] or ''}{{{found[2]}}}", text)
    text = PLAIN_MIXED.sub(r"\1\\frac{\2}{\3}", text)
    text = SUBSCRIPT.sub(r"_{\1}", text)
    text = POWER.sub(lambda found: f"^{{{found[1] or found[2]}}}", text)
    text = FRACTION.sub(lambda found: rf"\frac{_braced(found[1])}{_braced(found[2])}", text)
    return CHOOSE.sub(r"\\binom{\1}{\2}", OVER.sub(r"\\frac{\1}{\2}", text))


def _braced(argument: str) -> str:
    return argument if argument.startswith("{") else f"{{{argument}}}"


def _with_values(text: str) -> str:
    """Decimals of all kinds as fractions of integers, and numbers of another base in base ten."""
    text = SCIENTIFIC.sub(r"\1\\cdot 10^{\2}", WITH_BASE.sub(_in_base_ten, text))
    text = DOUBLE_FACTORIAL.sub(lambda found: str(math.prod(range(int(found[1]), 0, -2))), text)
    text = ENDLESS.sub(lambda found: rf"{found[1]}.{found[2]}\overline{{{found[3] or found[4]}}}", text)
    return DECIMAL.sub(_decimal, REPEATING.sub(_repeating, text))


def _decimal(found: re.Match[str]) -> str:
    whole, digits, integer = found.groups()
    if integer is not None:
        return integer
    digits = digits.rstrip("0")
    numerator = f"{whole}{digits}".lstrip("0") or "0"
    value = rf"\frac{{{numerator}}}{{1{'0' * len(digits)}}}" if digits else whole or "0"
    return f"({value})" if found.string[found.end() :].lstrip()[:1] in ("^", "!") else value


def _in_base_ten(found: re.Match[str]) -> str:
    digits, base = found[1], int(found[2])
    is_number = 2 <= base <= 10 and all(int(digit) < base for digit in digits)
    return str(int(digits, base)) if is_number else found[0]


def _repeating(found: re.Match[str]) -> str:
    r"""0.1\overline{6} is (16 - 1) / 90."""
    whole, steady, period = found[1] or "0", found[2], found[3] or found[4]
    numerator = int(whole + steady + period) - int(whole + steady)
    return rf"\frac{{{numerator}}}{{{'9' * len(period)}{'0' * len(steady)}}}"
