r"""What countries, data sets and typesetting packages write otherwise, in the notation that the rest reads.

C_n^k is \binom{n}{k}, \operatorname{tg} is \tan, \SI{12}{\centi\meter} is 12 cm, 30^\circ 15' is a number of degrees.
"""

import re
from collections.abc import Callable
from fractions import Fraction

Rewrite = tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]]

INNER = r"(?:[^{}]|\{[^{}]*\})*"
CIRCLED = "\u2460-\u2473"  # 1 to 20 in circles, by which statements are named
SUPERSCRIPTS, SUBSCRIPTS = "⁰¹²³⁴⁵⁶⁷⁸⁹", "₀₁₂₃₄₅₆₇₈₉"
PLAIN_DIGITS = str.maketrans(SUPERSCRIPTS + SUBSCRIPTS, "0123456789" * 2)
FUNCTIONS = {
    **{"tg": r"\tan", "ctg": r"\cot", "cotg": r"\cot", "cosec": r"\csc", "cbrt": r"\sqrt[3]"},
    **{"arctg": r"\arctan", "arcctg": r"\arccot", "atan": r"\arctan", "asin": r"\arcsin", "acos": r"\arccos"},
    **{name: f"\\{name}" for name in ("arctan", "arcsin", "arccos", "sin", "cos", "tan", "cot", "csc")},
    **{name: f"\\{name}" for name in ("ln", "log", "exp", "sinh", "cosh", "tanh")},
}
HYPERBOLIC = {"sh": r"\sinh", "ch": r"\cosh", "th": r"\tanh"}  # bare and in texts they are something else
NAMES = "|".join(sorted(FUNCTIONS, key=len, reverse=True))
PREFIXES = "kilo|centi|milli|micro|nano|mega|giga|deci|hecto"
POSITIVE = r"(?:\^\s*\{?\s*(?:\*|\+|\\ast(?![a-z]))\s*\}?|_\s*\{?\s*\+\s*\}?)"
MARK = r"(?:'|\^\s*\{?\s*\\prime(?![a-z])\s*\}?|′|’)"
DEGREE = r"(?:\^\s*\{?\s*\\circ\s*\}?|°)"
PLACES = r"(?:decimal\s+places?|d\.?\s?p\.?|significant\s+(?:figures?|digits?)|s\.?\s?f\.?)"
ROUNDING = rf"(?:(?:rounded|correct|accurate)\s+)?(?:to\s+)?(?:the\s+nearest\s+[a-z]+|(?:\d|[a-z]+)\s+{PLACES})"


def _function(found: re.Match[str]) -> str:
    name = found[1] or found[2]
    return f"{FUNCTIONS.get(name) or HYPERBOLIC[name]} "


def _unit(found: re.Match[str]) -> str:
    """siunitx: commands for units, or their letters."""
    unit = re.sub(rf"\\({PREFIXES})\s*(?=\\)", r"\1", found[2]).replace(r"\per", " per ")
    unit = re.sub(rf"(?<=[a-z])({PREFIXES})\\", r" \1", unit.replace("~", " "))
    joined = re.sub(rf"({PREFIXES})\\", r"\1", unit)
    return rf"{found[1]}\text{{ {joined.replace(chr(92), ' ').strip()}}}"


def _degrees(found: re.Match[str]) -> str:
    value = int(found[1]) + Fraction(int(found[2]), 60) + Fraction(int(found[3] or 0), 3600)
    return rf"\frac{{{value.numerator}}}{{{value.denominator}}}^{{\circ}}"


def _clock(found: re.Match[str]) -> str:
    return rf"{found[1]}:{found[2] or '00'} {found[3].lower()}m"


def _share(found: re.Match[str]) -> str:
    """1 out of 6; never 6 out of 1."""
    return rf"\frac{{{found[1]}}}{{{found[2]}}}" if int(found[1]) <= int(found[2]) else found[0]


def _combinations(found: re.Match[str]) -> str:
    r"""C_n^k; a constant C_1^2 has no such indices."""
    below, above = (found[1] or found[2]).strip(), (found[3] or found[4]).strip()
    if below.isdecimal() and not (above.isdecimal() and 3 <= int(below) >= int(above)):
        return found[0]
    return rf"\binom{{{below}}}{{{above}}}"


def _matrix(found: re.Match[str]) -> str:
    """[[1,2],[3,4]]"""
    rows = [row.split(",") for row in re.split(r"\]\s*,\s*\[", found[1])]
    if len({len(row) for row in rows}) > 1:
        return found[0]
    return r"\begin{pmatrix}" + r"\\".join("&".join(row) for row in rows) + r"\end{pmatrix}"


def _joined(found: re.Match[str]) -> str:
    return re.sub(r"\D", "", found[0])


def _rewrite(pattern: str, replacement: str | Callable[[re.Match[str]], str], flags: int = 0) -> Rewrite:
    return re.compile(pattern, flags), replacement


REWRITES: tuple[Rewrite, ...] = (
    # characters
    _rewrite(rf"(?<=[{CIRCLED}])\s*(?=[{CIRCLED}])", " , "),
    _rewrite(
        rf"(?<![\w)])\^?([{SUPERSCRIPTS}]+)[/⁄∕]([{SUBSCRIPTS}]+)",
        lambda found: rf"\frac{{{found[1].translate(PLAIN_DIGITS)}}}{{{found[2].translate(PLAIN_DIGITS)}}}",
    ),
    _rewrite(r"^\s*\^\s*\{?(\d+)\}?\s*/\s*_\s*\{?(\d+)\}?\s*$", r"\\frac{\1}{\2}"),
    _rewrite("(?:\\d\u0305)+", lambda found: rf"\overline{{{_joined(found)}}}"),
    _rewrite(r"\\text\s*\{\s*°\s*([CF]?)\s*\}", r"^{\\circ}\1"),
    _rewrite(r"\\slash(?![a-z])", "/"),
    _rewrite(r"\\!\s*:\s*\\!", ":"),
    _rewrite(r"(?<=\d)!=(?=\s*\d)", "! ="),
    _rewrite(r"\\text\s*\{\s*exactly\s*\}", ""),
    # layout
    _rewrite(rf"\\(?:tag\*?|label|[hv]?phantom|[hv]space\*?|colorbox)\s*\{{{INNER}\}}|\\bbox\s*\[[^\[\]]*\]", " "),
    _rewrite(r"\\[hv]skip\s*-?[\d.]+\s*[a-z]{2}|\\(?:hfill?|nonumber|notag|m?strut|mathstrut|mathop)(?![a-zA-Z])", " "),
    _rewrite(r"\\cr(?![a-z])", r"\\\\"),
    _rewrite(r"\\begin\s*\{array\}\s*\{[lcr]\}((?:(?!\\\\|&|\\begin|\\end).)*)\\end\s*\{array\}", r"\1"),
    # numbers
    _rewrite(r"(?<![\w.])\d{1,3}(?:_\d{3})+(?![\w.])", _joined),
    _rewrite(r"(?<![\w.'])\d{1,3}(?:['’]\d{3})+(?![\w'’])", _joined),
    _rewrite(r"^\s*\d{1,2}(?:,\d\d)+,\d{3}\s*$", lambda found: _joined(found) if ",0" in found[0] else found[0]),
    _rewrite(r"(?<![\d.,}])(\d+)\{,\}(\d{1,2}|\d{4,}|(?<=\b0\{,\})\d{3})(?![\d.{])", r"\1.\2"),
    _rewrite(r"^\s*\$?(\d+)\s*(?:\\text\s*\{)?\s*(?:in|out\s+of)\s*\}?\s*(\d+)\$?\s*$", _share),
    _rewrite(rf"(\d+)\s*{DEGREE}\s*(\d{{1,2}})\s*{MARK}(?:\s*(\d{{1,2}})\s*(?:{MARK}{{2}}|″|\"))?", _degrees),
    # units and remarks
    _rewrite(r"\\(?:SI|qty)\s*(?:\[[^\[\]]*\])?\s*\{([^{}]*)\}\s*\{([^{}]*)\}", _unit),
    _rewrite(r"\\num\s*\{([^{}]*)\}", r"\1"),
    _rewrite(r"\bper\s+cent\b", "percent"),
    _rewrite(rf"\s*\(?\s*\\text\s*\{{\s*\(?\s*{ROUNDING}\s*\)?\s*\}}\s*\)?\s*$", ""),
    _rewrite(r"\s*\\text\s*\{\s*\(\s*or\s+([^{}()]*)\)\s*\}\s*$", r"=\1"),  # both have to be right
    _rewrite(
        r"^\s*(?:\\text\s*\{)?\s*(\d{1,2})(?:\s*:\s*([0-5]\d))?\s*\}?\s*(?:\\text\s*\{)?\s*([ap])\.?\s?m\.?\s*\}?\s*$",
        _clock,
        re.IGNORECASE,
    ),
    # functions and sets
    _rewrite(
        rf"\\(?:operatorname\*?|mathrm|text)\s*\{{\s*({NAMES})\s*\}}|(?<![\\a-zA-Z{{])({NAMES})(?![a-zA-Z}}])",
        _function,
    ),
    _rewrite(r"\\(?:operatorname|mathrm)\s*\{\s*(sh|ch|th)\s*\}()(?=\s*\\?[\w({])", _function),
    _rewrite(r"\\(tg|ctg|cotg|cosec|arctg|arcctg)(?![a-zA-Z])()", _function),
    _rewrite(r"(?<![\\a-zA-Z])abs\s*\(([^()]*)\)", r"|\1|"),
    _rewrite(
        r"(?:\\(?:mathrm|text)\s*\{\s*C\s*\}|(?<![a-zA-Z\\])C)\s*_\s*(?:\{([^{}]*)\}|(\w))\s*\^\s*(?:\{([^{}]*)\}|(\w))",
        _combinations,
    ),
    _rewrite(r"(?<![a-zA-Z\\])C\s*\(\s*(\d?[a-z])\s*,\s*(\d?[a-z])\s*\)", r"\\binom{\1}{\2}"),
    _rewrite(r"\\(?:mathbb|Bbb|mathbf)\s*(?:\{\s*([RZNQ])\s*\}|([RZNQ])(?![a-zA-Z]))", r"\\mathbb{\1\2}"),
    _rewrite(rf"\\mathbb\{{[NZ]\}}\s*{POSITIVE}", r"\\mathbb{Z}^{+}"),
    _rewrite(r"\\mathbb\{Z\}\s*/\s*(\d+|[a-z])\s*\\mathbb\{Z\}", r"\\mathbb{Z}_{\1}"),
    _rewrite(r"(?<=[)\]])\s*(?:U|\\bigcup)\s*(?=\\?(?:left\s*)?[(\[])", r"\\cup "),
    # vectors and matrices
    _rewrite(
        r"\\(?:hat|vec|widehat|mathbf|boldsymbol|bm)\s*\{\s*(?:\\(?:mathbf|boldsymbol|bm)\s*\{\s*)?\\?([ijk])(?:math)?\s*\}\s*\}?(?=\s*(?:[-+]|$))",
        r" \1 ",
    ),
    _rewrite(r"^\s*\[\s*\[([^\[\]]*(?:\]\s*,\s*\[[^\[\]]*)+)\]\s*\]\s*$", _matrix),
    _rewrite(
        r"\\begin\s*\{([pb]matrix)\}((?:(?!\\\\|\\begin|\\end).)*)\\end\s*\{\1\}\s*\^\s*\{?\s*(?:T|\\top|\\intercal)\s*\}?",
        lambda found: rf"\begin{{{found[1]}}}{found[2].replace('&', chr(92) * 2)}\end{{{found[1]}}}",
    ),
    _rewrite(r"^(.*\([^()]*,[^()]*\))\s*\^\s*\{?\s*(?:T|\\top|\\intercal)\s*\}?\s*$", r"\1"),
    _rewrite(r"\^\s*\{?\s*((?:\\prime\s*)+)\}?", lambda found: "'" * found[1].count("prime")),
)


def rewritten(text: str) -> str:
    """The text with each convention in the one notation."""
    for pattern, replacement in REWRITES:
        text = pattern.sub(replacement, text)
    return text
