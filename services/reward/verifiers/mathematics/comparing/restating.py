r"""Answers that state the question again instead of its result: 2^{100} \bmod 1000 for 376."""

import re

Strictness = bool | str  # "auto" otherwise
NAMED_OPERATION = re.compile(
    r"\\(?:sum|prod|i+nt|oint|lim|binom|gcd|lcm|mod|pmod|lfloor|lceil|floor|ceil|max|min|sup|inf|det|Gamma)(?![a-z])"
    r"|\\(?:text|operatorname)\{\s*(?:gcd|lcm|max|min|mod|det|floor|ceil|choose|rem)[^{}]*\}"
    r"|(?<![a-zA-Z\\])(?:gcd|lcm|max|min|mod|det|floor|ceil)\s*\(|\{vmatrix\}",
)
LONE_FACTORIAL = re.compile(r"[\d()\s!]*")  # 4! is a number; 10!/(7! 3!) is a binomial coefficient written out
PLAIN_NUMBER = re.compile(
    r"[-+]?\s*(?:\d+|\d*\s*\\frac\{\s*[-+]?\d+\s*\}\{\s*[-+]?\d+\s*\}|\d+\s*/\s*\d+)"
    r"(?:\s*\\cdot\s*10\s*\^\s*(?:\{-?\d+\}|\d))?"
)
TIMES = re.compile(r"\\(?:cdot|times|ast)(?![a-z])|[×·⋅]|\*\*")
LAYOUT = re.compile(
    r"\\(?:text\w*|math\w+|bold\w*|bm|left|right|displaystyle|mbox|big\w*|[,;:! ()\[\]])|(?<=\\)[dt](?=frac)|[{}$~]"
)
AROUND_SIGN = re.compile(r"\s*([-+*/^!,()])\s*")
OPERATION = re.compile(r".[-+*/^!]|\\(?:frac|sqrt|binom|sum|prod|gcd|lcm|[bp]?mod)")
NUMBER = re.compile(r"[-+]?[\d.,]+(?:/[\d.,]+)?|[-+]?\\frac\d+")


def is_plain_number(text: str) -> bool:
    """An integer, a fraction or a decimal, with a power of ten or without one; in plain notation."""
    return PLAIN_NUMBER.fullmatch(text.strip()) is not None


def restates(gold: str, answer: str, strict: Strictness) -> bool:
    """Whether the answer leaves work to the reader that its ground truth has done; both without units."""
    if strict is False or not (strict is True or is_plain_number(gold)):
        return False
    if NAMED_OPERATION.search(answer) or ("!" in answer and not LONE_FACTORIAL.fullmatch(answer.strip())):
        return gold != answer
    return strict is True and is_plain_number(gold) and not is_plain_number(answer)


def repeats_the_prompt(answer: str, prompt: str) -> bool:
    """Whether arithmetic in the box was copied from the question."""
    written = _skeleton(answer)
    if not OPERATION.search(written) or NUMBER.fullmatch(written):
        return False
    return re.search(rf"(?<![\w.^*/+-]){re.escape(written)}(?![\w^*/!]|\.\d)", _skeleton(prompt)) is not None


def _skeleton(text: str) -> str:
    """Numbers and signs, however they are set."""
    return AROUND_SIGN.sub(r"\1", " ".join(LAYOUT.sub(" ", TIMES.sub("*", text)).split()))
