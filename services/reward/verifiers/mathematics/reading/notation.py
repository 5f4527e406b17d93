r"""One notation for answers: Unicode, plain text and the many spellings of LaTeX become one plain LaTeX.

The result has no layout (dollar signs, spacing, \left), braces around every argument of \frac and \sqrt, \lor between
alternatives, words in \text{}, and decimals as fractions of integers, which have a value without rounding.
"""

import re
import unicodedata

from services.reward.verifiers.mathematics.reading import numerals, phrases
from services.reward.verifiers.mathematics.reading.conventions import rewritten
from services.reward.verifiers.mathematics.reading.number_words import number_in_words
from services.reward.verifiers.mathematics.reading.spelling import COMMANDS, CURRENCIES, FUNCTIONS, LAYOUT, SYMBOLS

SPACES = re.compile(r"\s+")
SYMBOL = re.compile("|".join(map(re.escape, SYMBOLS)))
COMMAND = re.compile(r"\\[a-zA-Z]+")
SPACING = re.compile(r"(?<!\\)\\[,;:! ]|~|\\(?:[hv]space|color|textcolor)\s*\{[^{}]*\}")
PLAIN_MIXED = re.compile(r"(?<![\d.])(\d+)\s+(\d+)/(\d+)(?!\d)")
QUOTED = re.compile(
    r"""\s*(\*\*|\*|__|[`"'“”‘’])(?=[^\s*])((?:(?!\1).)+?)(?<=[^\s*])(?:\1|[”’])\s*[.,;]?\s*""", re.DOTALL
)  # and emphasis of Markdown
RAISED = {ord(character): plain for character, plain in zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿ", "0123456789-+n", strict=True)}
LOWERED = {ord(character): plain for character, plain in zip("₀₁₂₃₄₅₆₇₈₉₋₊ₙ", "0123456789-+n", strict=True)}
RAISED_CHARACTERS, LOWERED_CHARACTERS = (
    re.compile(f"[{''.join(map(chr, table))}]+".replace("-", r"\-")) for table in (RAISED, LOWERED)
)
CURRENCY = re.compile("|".join(f"(?P<{name.replace(' ', '_')}>{signs})" for name, signs in CURRENCIES.items()))
AMOUNT = re.compile(
    rf"\s*([-+]?)\s*(?:\\(?:text|mathrm)\s*\{{\s*)?(?P<currency>{CURRENCY.pattern})\s*\}}?(?:\s|~|\\[ ,;!])*"
    r"(?P<amount>\d(?:[\d.,]|\{,\}|\\[,!])*)\s*"
)
SET_BUILDER = re.compile(r"\s*(?<!\\)\{(\s*[a-z]\s*(?:\\in\s*\\mathbb\{R\}\s*)?[|:].*)(?<!\\)\}\s*$")
DOMAIN_FIRST = re.compile(r"^\s*([a-z])\s*\\in\s*\\mathbb\{R\}\s*,(?=.*[<>]|.*\\[lgn]e(?![a-z]))(.*)$")
ENDS = r"([^\[\](){}]*[,;][^\[\](){}]*)"
OUTWARD_BRACKETS = (  # ]0,1[ is (0,1)
    (re.compile(rf"(?<![\w)}}\]])\s*\]{ENDS}\["), r"(\1)"),
    (re.compile(rf"(?<![\w)}}\]])\s*\]{ENDS}\]"), r"(\1]"),
    (re.compile(rf"(?<![\w}}])\[{ENDS}\[(?!\w)"), r"[\1)"),
)
IDEOGRAPHS = r"[\u3040-\u30fa\u3400-\u9fff\uac00-\ud7a3]+|[\u0400-\u04ff]+(?:[ ./][\u0400-\u04ff]+)*\.?"
BARE_IDEOGRAPHS = re.compile(rf"\\[a-zA-Z]+\s*\{{[^{{}}]*\}}|{IDEOGRAPHS}")
UNITS_WITH_POWERS = re.compile(
    r"\\(?:text|mathrm|textrm|mbox)\s*\{((?:[^{}^]|\^\s*-?\d)*(?:\^\s*\{\s*-?\d\s*\}|\^\s*-?\d)(?:[^{}^]|\^\s*\{\s*-?\d\s*\}|\^\s*-?\d)*)\}"
)
UNIT_WITH_POWER = re.compile(r"([a-zA-Z/ ]*[a-zA-Z])\s*\^\s*\{?\s*(-?)(\d)\s*\}?")
NEGATIVE_POWER_OF_UNIT = re.compile(r"\\text\{([^{}]*?)([a-zA-Z]+)\s*\}\s*\^\s*\{?\s*-(\d)\s*\}?")
BETWEEN_UNITS = re.compile(r"\\[,;:! ]|~|\\cdot")
DELIMITER = re.compile(r"(?<!\\)\\[()\[\]$]|[$€£¥]")
ENVIRONMENT = re.compile(
    r"\\begin\s*\{(cases|dcases|aligned|align\*?|gathered|gather\*?|split|equation\*?)\}(.*?)\\end\s*\{\1\}", re.DOTALL
)
BRACED_ARRAY = re.compile(r"\\\{\s*\\begin\s*\{array\}\s*(?:\{[^{}]*\})?(.*?)\\end\s*\{array\}\s*\.?", re.DOTALL)
ROW_END = re.compile(r"\\\\(?:\s*\[[^\[\]]*\])?")
CONDITION_WORD = re.compile(r"\s*,?\s*(?:\\(?:text|mathrm|mbox)\s*\{\s*,?\s*)?(?:if|when|for)\b\s*\}?\s*")
SIGN_AFTER_MARK = re.compile(r"\s*(?:=|<|>|\\[lg]e)")
ARRAY = re.compile(r"\\(begin|end)\s*\{(?:array|matrix|[pb]?smallmatrix|Bmatrix|bmatrix)\}(?:\s*\{[^{}]*\})?")
WRAPPER = re.compile(
    r"\\(?:text(?:bf|it|rm|sf|tt|normal|up|sc|sl|md)?|emph|math(?:rm|bf|it|sf|tt|normal)|mbox|hbox|operatorname"
    r"|boldsymbol|bm|pmb|bold)"
    r"\s*\{([^{}]*)\}"
)
INNER_WRAPPER = re.compile(r"(\\(?:text|math)(?:bf|it|rm|sf)?)\s*\{\s*\\(?:text|math|bold|mbox)\w*\s*\{([^{}]*)\}\s*\}")
UNIT_SYMBOLS = re.compile(r"(?:(?<=\d)|(?<=\d\}))\s*(?:\\(?:text|mathrm)\s*\{\s*([NJWVACFTHS])\s*\}|\\Omega)\s*$")
UNWRAPPED = re.compile(r"\s*(?:[-+]?\d|(?:[a-fi-jn-rt-zA-KM-Z]|[\W\d_]*)\s*$)")  # g, h, k, l, L, m, s may be units
OR = re.compile(r"\s*(?:or|and/or|ou|oder|или|或|或者|または|또는)\s*", re.IGNORECASE)
AND = re.compile(r"\s*(?:and|et|und|и|,|和|与|及|以及|と|와|과|그리고)\s*", re.IGNORECASE)
TO = re.compile(r"\s*to\s*")
PLAIN_TO = re.compile(r"(?<=[\d}])\s+to\s+(?=[\d\\])")
LIST_AND = re.compile(r",\s*and\s+(?=[-+\d(\\{]|[a-zA-Z](?![a-zA-Z]))")
AMPERSAND = re.compile(r"\s*\\?&\s*")
PLAIN_OR = re.compile(r"(?<![a-zA-Z\\{])\s+or\s+(?![a-zA-Z]{2,}\s)|(?<=[\d)}])\s+(?:ou|oder|или)\s+(?=[-+\d(\\{])")
PLAIN_AND = re.compile(r"(?<=[\d)}a-zA-Z])(?<![a-zA-Z]{2})\s+(?:and|et|und|и)\s+(?=[-+\d(\\{]|[a-zA-Z](?![a-zA-Z]))")
PLAIN_FUNCTION = re.compile(rf"(?<![\\a-zA-Z])({'|'.join(FUNCTIONS)})(?![a-zA-Z])")
NAMED_FUNCTION = re.compile(
    r"(?<![\d}])(?<![\d}]\s)\\text\{\s*(gcd|lcm|max|min)\s*\}|(?<![\\a-zA-Z{])(gcd|lcm|max|min)(?=\s*\()"
)
PLAIN_INFINITY = re.compile(r"\\text\{\s*infinity\s*\}|(?<![\\a-zA-Z])(?:infinity|infty|inf|oo)(?![a-zA-Z])")
ARGUMENT = r"\s*(\{(?:[^{}]|\{[^{}]*\})*\}|\d|[a-zA-Z]|\\[a-zA-Z]+)"
FRACTION = re.compile(rf"\\frac(?!\s*\{{[^{{}}]*\}}\s*\{{){ARGUMENT}{ARGUMENT}")
ROOT_OF_ONE = re.compile(r"\\sqrt\s*(\[[^\[\]]*\])?\s*(\d+(?:\.\d+)?|[a-zA-Z]|\\pi)")
ROOT_OF_GROUP = re.compile(r"\\sqrt\s*(\[[^\[\]]*\])?\s*\(([^()]*)\)")
SUBSCRIPT = re.compile(r"_\s*(\w)")
POWER = re.compile(r"\^\s*(?:\(([^()]*)\)|(-?\d*\.\d+|-?\d{2,}|-\d))")
OVER = re.compile(r"\{([^{}]*)\\over(?![a-z])([^{}]*)\}")
THOUSANDS = re.compile(r"(?<![\d.,(\[])(?<!\\\{)\d{1,3}(?:(?:,\\!|,|\{,\}|\\,|\\ | )\d{3})+(?![\d])(?!,\d)")
CHOOSE = re.compile(r"\{([^{}]*)\\choose(?![a-z])([^{}]*)\}")
WITHOUT = re.compile(r"(\\mathbb\s*\{R\})\s*-\s*(?=\\\{)")
INTEGERS = r"(?:\\mathbb\s*\{?\s*Z\s*\}?|\\Z|Z)"
OF_INTEGERS = re.compile(
    rf"(?<=[^\s,;:|(])[\s,;(]*(?:\\text\{{\s*,?\s*(?:for|where|with)(?:\s+(?:any|all|every|each|some))?\s*\}}\s*)?"
    rf"(?<![a-zA-Z])([a-zA-Z])\s*\\in\s*{INTEGERS}\s*\)?\s*$"
)
ANY_INTEGER = re.compile(
    r"(?<![\s,;(])[\s,;(]*(?:\\text\{[\s,]*)?(?:(?:for|where|with)\s+)?(?:(?:any|all|every|each|some|an)\s+)?"
    r"integers?(?:\s*\}\s*|\s+)([a-z])\s*\}?\s*\)?\s*$"
)
IS_INTEGER = re.compile(
    r"(?<![\s,;(])[\s,;(]*(?:\\text\{\s*,?\s*(?:for|where|with|and)?\s*\}?)?\s*(?<![a-zA-Z])([a-z])\s*(?:\\text\{)?\s*"
    r"(?:is|are|being|any|an)\s+(?:an\s+|any\s+)?integers?\s*\}?\s*\)?\s*$"
)


def plain(answer: str) -> str:
    """The answer in the one notation."""
    return evaluated(spelled(answer))


def spelled(answer: str) -> str:
    r"""The answer in the one notation, but with its numbers as written: decimals, and other bases as 1101_{2}."""
    text = SPACES.sub(" ", _visible(answer))  # many in a row would make the patterns below slow
    while quoted := QUOTED.fullmatch(text):
        text = quoted[2]
    text = rewritten(text)
    text = RAISED_CHARACTERS.sub(lambda found: f"^{{{found[0].translate(RAISED)}}}", text)
    text = LOWERED_CHARACTERS.sub(lambda found: f"_{{{found[0].translate(LOWERED)}}}", text)
    text = unicodedata.normalize("NFKC", SYMBOL.sub(lambda found: SYMBOLS[found[0]], text))
    text = _amount(found) if (found := AMOUNT.fullmatch(text)) else text
    text = DELIMITER.sub(" ", _without_environments(_without_commands(text)))
    text = _in_signs(_with_words(THOUSANDS.sub(lambda found: re.sub(r"\D", "", found[0]), text)))
    text = numerals.with_plain_digits(_with_braces(text))
    return numerals.with_bases(text).strip().rstrip(".,;:\\ ")


def _visible(text: str) -> str:
    """The text without characters of no width."""
    return text if text.isascii() else "".join(one for one in text if unicodedata.category(one) != "Cf")


def evaluated(text: str) -> str:
    """A spelled answer with its numbers as fractions of integers in base ten."""
    return numerals.with_values(text).strip().rstrip(".,;:\\ ")


def _with_words(text: str) -> str:
    r"""Words in \text{}, without labels and quantifiers; what they say of a set in its notation."""
    text = UNITS_WITH_POWERS.sub(_units, phrases.without_label(text))
    text = BARE_IDEOGRAPHS.sub(lambda found: found[0] if found[0][0] == "\\" else rf"\text{{{found[0]}}}", text)
    text = INNER_WRAPPER.sub(r"\1{\2}", SPACING.sub(" ", text))
    text = UNIT_SYMBOLS.sub(lambda found: rf"\text{{unit {found[1] or 'ohm'}}}", text)
    text = ARRAY.sub(r"\\\1{pmatrix}", WRAPPER.sub(_words, text))
    text = NEGATIVE_POWER_OF_UNIT.sub(r"\\text{\1/\2}^{\3}", phrases.without_label(text)).strip()
    if names := phrases.listed_names(text.rstrip(". ")):
        return " , ".join(rf"\text{{{name}}}" for name in names)
    return number_in_words(text) or phrases.set_in_words(text) or _with_parameter(phrases.without_quantifier(text))


def _in_signs(text: str) -> str:
    """Signs for the words between values, and for functions written in words."""
    text = WITHOUT.sub(r"\1\\setminus ", SET_BUILDER.sub(r"\\{\1\\}", DOMAIN_FIRST.sub(r"\2", text)))
    for outward, inward in OUTWARD_BRACKETS:
        text = outward.sub(inward, text)
    text = PLAIN_OR.sub(r" \\lor ", PLAIN_AND.sub(" , ", LIST_AND.sub(" , ", text)))
    text = PLAIN_TO.sub(" : ", text if r"\begin" in text else AMPERSAND.sub(" , ", text))
    text = PLAIN_INFINITY.sub(r"\\infty ", numerals.with_multipliers(text))
    return PLAIN_FUNCTION.sub(r"\\\1 ", NAMED_FUNCTION.sub(r"\\\1\2", text))


def _amount(found: re.Match[str]) -> str:
    """The currency behind the number, where a unit stands."""
    currency = CURRENCY.fullmatch(found["currency"])
    name = str(currency.lastgroup).replace("_", " ") if currency else ""
    return rf"{found[1]}{found['amount']}\text{{ {name}}}"


def _units(found: re.Match[str]) -> str:
    r"""m\,s^{-1} as \text{m}\text{/s}: each power behind the text of its unit."""

    def power(unit: re.Match[str]) -> str:
        *before, last = unit[1].rsplit(" ", 1)
        name = f"{before[0]} /{last}" if unit[2] and before else "/" + last if unit[2] else unit[1]
        return rf"}}\text{{{name}}}" + (f"^{{{unit[3]}}}" if unit[3] != "1" else "") + r"\text{"

    text = UNIT_WITH_POWER.sub(power, BETWEEN_UNITS.sub(" ", found[1]))
    return re.sub(r"\\text\{\s*\}", "", rf"\text{{{text}}}")


def _without_environments(text: str) -> str:
    r"""x=1\\y=2 as a list, x&=1+2\\&=3 as a chain; \begin{cases} with conditions in one spelling."""
    text = BRACED_ARRAY.sub(r"\\begin{cases}\1\\end{cases}", text)
    return ENVIRONMENT.sub(_row_by_row, text)


def _row_by_row(found: re.Match[str]) -> str:
    rows = [row.strip() for row in ROW_END.split(found[2]) if row.strip()]
    if "cases" in found[1] and rows and all(map(_has_condition, rows)):
        return _piecewise(rows)
    bare = [row.replace("&", " ").strip(" ,;") for row in rows]
    return re.sub(r" , (?==)", " ", " , ".join(bare))


def _has_condition(row: str) -> bool:
    """Whether what follows & is a condition; in x &= 1 it is the rest of an equation."""
    _, mark, condition = row.partition("&")
    return bool(mark) and not SIGN_AFTER_MARK.match(condition)


def _piecewise(rows: list[str]) -> str:
    cleaned = []
    for row in rows:
        value, _, condition = row.partition("&")
        cleaned.append(
            rf"{value.strip(' ,')} & {CONDITION_WORD.sub('', condition, count=1).replace('&', ' ').strip(' ,.')}"
        )
    return r"\begin{cases}" + r" \\ ".join(cleaned) + r"\end{cases}"


def _with_parameter(text: str) -> str:
    """What runs through the integers, said in words or in signs, in one spelling at the end."""
    for declaration in (OF_INTEGERS, ANY_INTEGER, IS_INTEGER):
        if found := declaration.search(text):
            return rf"{text[: found.start()]} , {found[1]} \in \mathbb{{Z}}"
    return text


def _without_commands(text: str) -> str:
    """Aliases replaced and layout commands removed."""
    return COMMAND.sub(lambda found: "" if found[0] in LAYOUT else COMMANDS.get(found[0], found[0]), text)


def _words(wrapper: re.Match[str]) -> str:
    r"""Text stays text; what begins with a number and a single letter are themselves; "or" and "and" are signs."""
    content = phrases.without_label(wrapper[1])
    for words, sign in ((OR, r" \lor "), (AND, " , "), (TO, " : ")):
        if words.fullmatch(content):
            return sign
    if names := phrases.listed_names(content.strip(". ")):
        return " , ".join(rf"\text{{{name}}}" if len(name) > 1 else name for name in names)
    return f" {content} " if UNWRAPPED.match(content) else rf"\text{{{content.strip()}}}"


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
