"""Tables: the many spellings of one symbol, in Unicode and in LaTeX."""

import unicodedata

VULGAR_FRACTIONS = {
    character: r"\frac{{{}}}{{{}}}".format(*unicodedata.normalize("NFKC", character).split("\N{FRACTION SLASH}"))
    for character in "½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅐⅛⅜⅝⅞⅑⅒"
}
ZEROS = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
CURRENCIES = {r"\$": "dollar", "€": "euro", "£": "pound sterling", "¥": "yen"}
SETS_IN_WORDS = {
    "no solution": r"\emptyset",
    "no solutions": r"\emptyset",
    "no real solution": r"\emptyset",
    "no real solutions": r"\emptyset",
    "empty set": r"\emptyset",
    "all real numbers": r"\mathbb{R}",
    "all reals": r"\mathbb{R}",
}

SYMBOLS = {
    "\N{MINUS SIGN}": "-",
    "\N{EN DASH}": "-",
    "\N{EM DASH}": "-",
    "\N{MULTIPLICATION SIGN}": r"\cdot ",
    "\N{MIDDLE DOT}": r"\cdot ",
    "\N{DOT OPERATOR}": r"\cdot ",
    "\N{DIVISION SIGN}": "/",
    "\N{FRACTION SLASH}": "/",
    "\N{SQUARE ROOT}": r"\sqrt ",
    "\N{GREEK SMALL LETTER PI}": r"\pi ",
    "\N{GREEK SMALL LETTER THETA}": r"\theta ",
    "\N{INFINITY}": r"\infty ",
    "\N{LESS-THAN OR EQUAL TO}": r"\le ",
    "\N{GREATER-THAN OR EQUAL TO}": r"\ge ",
    "\N{NOT EQUAL TO}": r"\ne ",
    "\N{UNION}": r"\cup ",
    "\N{INTERSECTION}": r"\cap ",
    "\N{ELEMENT OF}": r"\in ",
    "\N{EMPTY SET}": r"\emptyset ",
    "\N{PLUS-MINUS SIGN}": r"\pm ",
    "\N{DEGREE SIGN}": r"^{\circ}",
    "\N{DOUBLE-STRUCK CAPITAL R}": r"\mathbb{R}",
    **VULGAR_FRACTIONS,
    "\N{SUPERSCRIPT TWO}": "^2",
    "\N{SUPERSCRIPT THREE}": "^3",
    "**": "^",
    "<=": r"\le ",
    ">=": r"\ge ",
    "!=": r"\ne ",
}

COMMANDS = {
    r"\dfrac": r"\frac",
    r"\tfrac": r"\frac",
    r"\cfrac": r"\frac",
    r"\nicefrac": r"\frac",
    r"\sfrac": r"\frac",
    r"\dbinom": r"\binom",
    r"\tbinom": r"\binom",
    r"\times": r"\cdot ",
    r"\leq": r"\le ",
    r"\leqslant": r"\le ",
    r"\geq": r"\ge ",
    r"\geqslant": r"\ge ",
    r"\lt": "<",
    r"\gt": ">",
    r"\neq": r"\ne ",
    r"\vee": r"\lor ",
    r"\wedge": ",",
    r"\land": ",",
    r"\varnothing": r"\emptyset ",
    r"\backslash": r"\setminus ",
    r"\lbrace": r"\{",
    r"\rbrace": r"\}",
    r"\langle": "(",
    r"\rangle": ")",
    r"\lbrack": "[",
    r"\rbrack": "]",
    r"\lvert": "|",
    r"\rvert": "|",
    r"\vert": "|",
    r"\mid": "|",
    r"\bmod": r"\mod ",
    r"\colon": ":",
    r"\imath": "i",
    r"\div": "/",
    r"\degree": r"^{\circ}",
    r"\bar": r"\overline",
    r"\dot": r"\overline",
    r"\lg": r"\log",
}

LAYOUT = frozenset(
    (
        *(
            r"\left",
            r"\right",
            r"\middle",
            r"\big",
            r"\Big",
            r"\bigg",
            r"\Bigg",
            r"\bigl",
            r"\bigr",
            r"\Bigl",
            r"\Bigr",
        ),
        *(r"\displaystyle", r"\textstyle", r"\scriptstyle", r"\limits", r"\nolimits", r"\rm", r"\bf", r"\it"),
        *(r"\quad", r"\qquad", r"\boxed", r"\fbox", r"\underline", r"\checkmark", r"\large", r"\Large"),
    )
)

FUNCTIONS = (
    *("sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos", "arctan", "sinh", "cosh", "tanh"),
    *("sqrt", "ln", "log", "exp", "pi"),
)
