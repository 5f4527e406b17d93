"""Tables: the many spellings of one symbol, in Unicode and in LaTeX."""

import unicodedata

GREEK = {
    character: f"\\{unicodedata.name(character).split()[-1].lower().replace('lamda', 'lambda')} "
    for character in "αβγδεζηθικλμνξπρστυφχψω"
}
VULGAR_FRACTIONS = {
    character: r"\frac{{{}}}{{{}}}".format(*unicodedata.normalize("NFKC", character).split("\N{FRACTION SLASH}"))
    for character in "½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅐⅛⅜⅝⅞⅑⅒"
}
POWERS_OF_TEN = {
    2: "hundred hundreds 百 백",
    3: "thousand thousands grand k mil mille tausend тысяча тысячи тысяч тыс 千 천",
    4: "万 萬 만",
    5: "lakh lakhs",
    6: "million millions mn mln mio millones millionen миллион миллиона миллионов млн",
    7: "crore crores",
    8: "亿 億 억",
    9: "billion billions bn bln milliard milliards milliarden миллиард миллиардов млрд",
    12: "trillion trillions tn trn",
    15: "quadrillion quadrillions",
    18: "quintillion quintillions",
}
MULTIPLIERS = {
    **{word: f"10^{{{power}}}" for power, words in POWERS_OF_TEN.items() for word in words.split()},
    **{"dozen": "12", "dozens": "12", "打": "12", "score": "20", "gross": "144"},
}
BASES_IN_WORDS = {
    word: str(number)
    for number, word in enumerate(
        (
            *("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
            *("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen"),
        ),
        start=2,
    )
}
CURRENCIES = {
    "dollar": r"\\\$|US\s?\\?\$|USD",
    "euro": "€|EUR",
    "pound sterling": "£|GBP",
    "yen": "¥|JPY",
    "yuan": "CNY|RMB|人民币",
    "rupee": r"₹|INR|Rs\.?",
    "won": "₩|KRW",
}

SYMBOLS = {
    "\N{MINUS SIGN}": "-",
    "\N{EN DASH}": "-",
    "\N{EM DASH}": "-",
    "\N{HYPHEN}": "-",
    "\N{NON-BREAKING HYPHEN}": "-",
    "\N{FIGURE DASH}": "-",
    "\N{RATIO}": ":",
    "\N{ALMOST EQUAL TO}": r"\approx ",
    "\N{CUBE ROOT}": r"\sqrt[3]",
    "\N{MASCULINE ORDINAL INDICATOR}": r"^{\circ}",
    "\N{RING ABOVE}": r"^{\circ}",
    **dict.fromkeys("✓✔☑■□∎", ""),
    "\N{MULTIPLICATION SIGN}": r"\cdot ",
    "\N{MIDDLE DOT}": r"\cdot ",
    "\N{DOT OPERATOR}": r"\cdot ",
    "\N{DIVISION SIGN}": "/",
    "\N{FRACTION SLASH}": "/",
    "\N{SQUARE ROOT}": r"\sqrt ",
    **GREEK,
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
    "\N{IDEOGRAPHIC FULL STOP}": ".",
    "\N{IDEOGRAPHIC COMMA}": ",",
    "\N{IDENTICAL TO}": r"\equiv ",
    "\N{RIGHTWARDS ARROW}": r"\to ",
    "\N{RIGHTWARDS DOUBLE ARROW}": r"\Rightarrow ",
    "\N{LONG RIGHTWARDS DOUBLE ARROW}": r"\Rightarrow ",
    "\N{THEREFORE}": r"\Rightarrow ",
    "\N{FOR ALL}": r"\forall ",
    "\N{HORIZONTAL ELLIPSIS}": r"\ldots ",
    "...": r"\ldots ",
    "\N{INTEGRAL}": r"\int ",
    "\N{N-ARY SUMMATION}": r"\sum ",
    "\N{N-ARY PRODUCT}": r"\prod ",
    "\N{LEFT FLOOR}": r"\lfloor ",
    "\N{RIGHT FLOOR}": r"\rfloor ",
    "\N{LEFT CEILING}": r"\lceil ",
    "\N{RIGHT CEILING}": r"\rceil ",
    "\N{DOUBLE-STRUCK CAPITAL Z}": r"\mathbb{Z}",
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
    r"\bigcup": r"\cup ",
    r"\bigcap": r"\cap ",
    r"\varepsilon": r"\epsilon",
    r"\varphi": r"\phi",
    r"\vartheta": r"\theta",
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
    r"\implies": r"\Rightarrow ",
    r"\Longrightarrow": r"\Rightarrow ",
    r"\rightarrow": r"\to ",
    r"\longrightarrow": r"\to ",
    r"\therefore": r"\Rightarrow ",
    r"\dots": r"\ldots",
    r"\cdots": r"\ldots",
    r"\dotsc": r"\ldots",
    r"\Pr": "P",
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
        *(r"\quad", r"\qquad", r"\boxed", r"\fbox", r"\underline", r"\checkmark"),
        *(r"\large", r"\Large", r"\LARGE", r"\huge", r"\Huge", r"\small", r"\normalsize", r"\ensuremath"),
        *(r"\blacksquare", r"\square", r"\Box", r"\qed"),
    )
)

FUNCTIONS = (
    *("sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos", "arctan", "sinh", "cosh", "tanh"),
    *("sqrt", "ln", "log", "exp", "pi"),
)
