"""What a data row holds as the answer: in the shapes of the known data sets, read once for all its responses."""

import ast
import functools
import json
import re
from dataclasses import dataclass

from services.reward.verifiers.answers import boxed_answer
from services.reward.verifiers.mathematics.choices import Choice, choice
from services.reward.verifiers.mathematics.comparing.families import without_index
from services.reward.verifiers.mathematics.comparing.leaves import is_readable
from services.reward.verifiers.mathematics.reading import numerals
from services.reward.verifiers.mathematics.reading.forms import (
    Form,
    GroupedForms,
    Leaf,
    Relation,
    Residues,
    TooComplexError,
    Union,
    form,
)
from services.reward.verifiers.mathematics.reading.notation import evaluated, spelled

END_OF_SOLUTION = "####"  # GSM8K
QUOTED_LIST = re.compile(r"""\s*\[\s*(?:"[^"]*"|'[^']*')(?:\s*,\s*(?:"[^"]*"|'[^']*'))*\s*\]\s*""")
QUOTED = re.compile(r""""((?:[^"\\]|\\.)*)"|'([^']*)'""")
TAGGED = re.compile(r"\s*<answer>(.*)</answer>\s*", re.DOTALL)
KEYS = ("ground_truth", "answer", "expected_answer", "final_answer", "target", "value", "solution")  # of a JSON object
OPTION = re.compile(r"^\s*([A-Z])\)(?=\s|$)")  # (A) without its first bracket
LONG_DECIMAL = re.compile(r"[-+]?\d*\.\d+")
DIGITS_OF_A_FLOAT = 15
FLOAT_TOLERANCE = 1e-14
DECIMAL_POINT = re.compile(r"\d*\.\d|\d[eE]-?\d")
BRACES = re.compile(r"\\\\|\\[{}]|[{}]")
BRACKETS = re.compile(r"\\\\|(?<!\\)[()\[\]]")


@dataclass(frozen=True, slots=True)
class Gold:
    """One correct answer."""

    text: str
    plain: str
    form: Form | None  # None: it is compared by its letters
    bases: frozenset[int]
    choice: Choice | None
    is_rounded: bool  # written with a decimal point
    precision: float = 0.0  # of a number that a machine has printed with all digits of a float, in proportion to it


@functools.lru_cache(maxsize=4096)
def golds(ground_truth: str) -> tuple[Gold, ...]:
    """The correct answers, of which any one is enough; those that are damaged are left out."""
    found = (_gold(text) for text in texts(ground_truth))
    return tuple(gold for gold in found if gold is not None)


def texts(ground_truth: str) -> list[str]:
    r"""The answers in `["18", "18.0"]` (Skywork), behind `####` (GSM8K), in the last `\boxed{}` (MATH), or as it is.

    In `{"ground_truth": "18"}` (SYNTHETIC), `{"value": "18"}` (ORZ) and `<answer>18</answer>`, too.
    """
    if tagged := TAGGED.fullmatch(ground_truth):
        return texts(tagged[1])
    if (content := _content(ground_truth)) is not None:
        return texts(content)
    if QUOTED_LIST.fullmatch(ground_truth):
        return [_unquoted(found) for found in QUOTED.finditer(ground_truth)]
    if QUOTED.fullmatch(ground_truth.strip()) and ground_truth.strip()[0] == '"':
        return texts(ground_truth.strip()[1:-1])
    if END_OF_SOLUTION in ground_truth:
        return [ground_truth.rpartition(END_OF_SOLUTION)[2]]
    boxed = boxed_answer(ground_truth)
    return [ground_truth if boxed is None else boxed]


def _content(ground_truth: str) -> str | None:
    """What a JSON object holds as the answer; None for another text."""
    if not ground_truth.lstrip().startswith("{") or '"' not in ground_truth:
        return None
    try:
        table = json.loads(ground_truth)
    except (ValueError, RecursionError):
        return None
    found = next((table[key] for key in KEYS if table.get(key) is not None), None) if isinstance(table, dict) else None
    return found if isinstance(found, str) or found is None else json.dumps(found, ensure_ascii=False)


def _unquoted(found: re.Match[str]) -> str:
    """A quoted text; LaTeX whose backslashes were not escaped stays as it is."""
    try:
        text = str(ast.literal_eval(found[0]))
    except (ValueError, SyntaxError):
        text = ""
    is_escaped = text.isprintable() and text != ""
    return text if is_escaped else found[1] or found[2]


def _gold(text: str) -> Gold | None:
    """None for a text that is empty or damaged: no answer can be right or wrong by it."""
    text = OPTION.sub(r"(\1)", text)
    if not text.strip() or not _is_balanced(text):
        return None
    written = spelled(text)
    if numerals.has_invalid_base(written):
        return None
    plain = evaluated(written)
    return Gold(
        text,
        plain,
        form=_readable_form(plain),
        bases=numerals.bases(written.rpartition("=")[2]),
        choice=choice(plain),
        is_rounded=DECIMAL_POINT.search(text) is not None,
        precision=_precision(text.strip()),
    )


def _precision(text: str) -> float:
    is_long = LONG_DECIMAL.fullmatch(text) and len(re.sub(r"\D", "", text).lstrip("0")) >= DIGITS_OF_A_FLOAT
    return FLOAT_TOLERANCE if is_long else 0.0


def _is_balanced(text: str) -> bool:
    """Whether each brace and bracket has its partner; ] may be that of ( or of ]."""
    braces = [found[0] for found in BRACES.finditer(text)]
    brackets = [found[0] for found in BRACKETS.finditer(text)]
    num_brackets = sum(bracket != r"\\" for bracket in brackets)
    depth = 0
    for brace in braces:
        depth += {"{": 1, "}": -1}.get(brace, 0)
        if depth < 0:
            return False
    return depth == 0 and num_brackets % 2 == 0


def _readable_form(gold: str) -> Form | None:
    try:
        found = without_index(form(gold))
        return found if gold and _is_readable(found) else None
    except TooComplexError:
        return None


def _is_readable(one: Form) -> bool:
    match one:
        case Leaf():
            return is_readable(one)
        case GroupedForms():
            return all(map(_is_readable, one.items))
        case Union():
            return all(map(_is_readable, one.parts))
        case Relation():
            return all(map(_is_readable, one.sides))
        case Residues():
            return _is_readable(one.values)
