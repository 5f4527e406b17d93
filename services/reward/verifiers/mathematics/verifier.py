"""The verdict on a response: its boxed answer against the ground truth."""

import re
from dataclasses import dataclass

from services.reward.verifiers.answers import are_equal, boxed_answer
from services.reward.verifiers.mathematics.choices import choice, letters
from services.reward.verifiers.mathematics.comparing.comparison import are_equal_forms
from services.reward.verifiers.mathematics.comparing.leaves import Rules
from services.reward.verifiers.mathematics.comparing.restating import Strictness, is_plain_number, repeats_the_prompt
from services.reward.verifiers.mathematics.golds import Gold, golds
from services.reward.verifiers.mathematics.reading import numerals
from services.reward.verifiers.mathematics.reading.forms import TooComplexError, conclusion, form
from services.reward.verifiers.mathematics.reading.notation import evaluated, spelled

MAX_ANSWER_CHARS = 2000
CONSTANT = re.compile(r"(?<![a-zA-Z\\{(])(?:[A-Zck]|\\text\{\s*const(?:ant|\.)?\s*\})(?=\s*(?:[-+]|$))")
CONSTANT_OF_INTEGRATION = re.compile(r"(?:^|\+)\s*C\s*(?=[-+]|$)")
CAPITAL = re.compile(r"(?<![a-zA-Z\\])[A-Z](?![a-zA-Z])")
BRACED_CHARACTER = re.compile(r"\{(\w)\}")
INSIGNIFICANT = re.compile(r"\\text\{([^{}]*)\}|[\s.。]+")


@dataclass(frozen=True, slots=True)
class Grading:
    """How verdicts are made.

    `strict`: "auto" gives an operation that is named and not carried out no credit where the ground truth is a plain
    number; True demands such a number itself; False compares values alone.
    `tolerance`: of ground truths with a decimal point, in proportion to them.
    """

    strict: Strictness = "auto"
    tolerance: float = 0.0


def is_correct(response: str, ground_truth: str, grading: Grading = Grading(), *, prompt: str = "") -> bool | None:
    """Whether the boxed answer equals the ground truth; None, whatever the answer, when the ground truth is damaged."""
    possible = golds(ground_truth)
    if not possible:
        return None
    answer = boxed_answer(response)
    return answer is not None and any(_is_equal(answer, gold, grading, prompt) for gold in possible)


def _is_equal(answer: str, gold: Gold, grading: Grading, prompt: str) -> bool:
    if answer.strip() == gold.text.strip() or are_equal(answer, gold.text):
        return True
    if len(answer) > MAX_ANSWER_CHARS:
        return False
    if grading.strict is not False and is_plain_number(gold.plain) and repeats_the_prompt(answer, prompt):
        return False
    written = spelled(answer)
    if r"\Rightarrow" not in gold.plain and r"\to" not in gold.plain:
        try:
            written = conclusion(written)
        except TooComplexError:
            return False
    if grading.strict is not False and numerals.bases(written.rpartition("=")[2]) != gold.bases:
        return False
    return _is_equal_in_value(evaluated(written), gold, grading)


def _is_equal_in_value(answer: str, gold: Gold, grading: Grading) -> bool:
    if gold.choice and (named := choice(answer)):
        is_same_text = not (gold.choice.text and named.text) or _is_same(named.text, gold.choice.text, grading)
        return named.letter == gold.choice.letter and is_same_text
    if gold.choice and gold.choice.text and answer and _is_same(answer, gold.choice.text, grading):
        return True
    if (several := letters(gold.plain)) and several == letters(answer):
        return True
    if gold.form is None or answer == gold.plain:
        return _letters(answer) == _letters(gold.plain)
    rules = Rules(grading.strict, max(gold.precision, grading.tolerance if gold.is_rounded else 0.0))
    try:
        return are_equal_forms(gold.form, form(_with_constant_of(gold.plain, answer)), rules)
    except Exception:  # TooComplexError, or whatever sympy raises for nonsense: an answer without a value
        return False


def _is_same(answer: str, text: str, grading: Grading) -> bool:
    """Whether an answer says what the option says."""
    return any(_is_equal(answer, gold, grading, "") for gold in golds(text))


def _with_constant_of(gold: str, answer: str) -> str:
    """The answer with its constant of integration called C, as in the ground truth."""
    is_named = CONSTANT_OF_INTEGRATION.search(gold) and len(CAPITAL.findall(gold)) == 1
    constants = CONSTANT.findall(answer)
    if not is_named or len(constants) != 1 or "C" in constants or constants[0] in gold:
        return answer
    return CONSTANT.sub("C", answer)


def _letters(text: str) -> str:
    """What remains of a text that is compared by its letters."""
    bare = INSIGNIFICANT.sub(lambda found: "".join((found[1] or "").split()), text)
    return BRACED_CHARACTER.sub(r"\1", bare)
