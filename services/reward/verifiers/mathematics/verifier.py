"""The verdict on a response: its boxed answer against the ground truth."""

import re

from services.reward.verifiers.answers import are_equal, boxed_answer
from services.reward.verifiers.mathematics.comparing.comparison import are_equal_forms
from services.reward.verifiers.mathematics.comparing.leaves import is_readable
from services.reward.verifiers.mathematics.reading.forms import (
    Form,
    Group,
    Leaf,
    Relation,
    TooComplexError,
    Union,
    form,
)
from services.reward.verifiers.mathematics.reading.notation import plain

MAX_ANSWER_CHARS = 2000
CHOICE = re.compile(r"[A-Z]")
CHOICE_WITH_ITS_TEXT = re.compile(r"(?:\\text\{)?\s*(?:\(([A-Z])\)|([A-Z])[.:)])\s*\}?\s*(\S.*)", re.DOTALL)
NAMED_CHOICE = re.compile(r"(?:\\text\{)?\s*(?:option|choice|answer)\s*:?\s*\(?([A-Z])\)?\s*\}?", re.IGNORECASE)
ANOTHER_CHOICE = re.compile(r"(?<![a-zA-Z\\])(?:[A-Z]|or|and|not)(?![a-zA-Z])|\\lor|,")


def is_correct(response: str, ground_truth: str) -> bool | None:
    """Whether the boxed answer equals the ground truth; None when the ground truth cannot be read."""
    answer = boxed_answer(response)
    if answer is None:
        return False
    gold = ground_truth if (boxed := boxed_answer(ground_truth)) is None else boxed
    if answer.strip() == gold.strip() != "" or are_equal(answer, gold):
        return True
    return False if len(answer) > MAX_ANSWER_CHARS else _is_equal_in_value(plain(answer), plain(gold))


def _is_equal_in_value(answer: str, gold: str) -> bool | None:
    if _is_choice(answer, gold):
        return True
    gold_form = _readable_form(gold)
    if gold_form is None:
        return True if answer == gold != "" else None
    try:
        return answer == gold or are_equal_forms(gold_form, form(answer))
    except Exception:  # TooComplexError, or whatever sympy raises for nonsense: an answer without a value
        return False


def _is_choice(answer: str, gold: str) -> bool:
    """An option's letter, named as such, or followed by what the option says."""
    if not CHOICE.fullmatch(gold):
        return False
    if named := NAMED_CHOICE.fullmatch(answer):
        return named[1] == gold
    found = CHOICE_WITH_ITS_TEXT.fullmatch(answer)
    return found is not None and gold in found.groups()[:2] and not ANOTHER_CHOICE.search(found[3])


def _readable_form(gold: str) -> Form | None:
    try:
        found = form(gold)
        return found if gold and _is_readable(found) else None
    except TooComplexError:
        return None


def _is_readable(one: Form) -> bool:
    match one:
        case Leaf():
            return is_readable(one)
        case Group():
            return all(map(_is_readable, one.items))
        case Union():
            return all(map(_is_readable, one.parts))
        case Relation():
            return all(map(_is_readable, one.sides))
