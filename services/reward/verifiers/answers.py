"""The answer that a response states, and exact comparison with the ground truth. No symbolic algebra.

Everything here takes time linear in the response, which is read once; only a short answer is looked at more closely.
"""

import re
from collections import deque
from collections.abc import Sequence
from fractions import Fraction

MAX_ANSWER_CHARS = 1000  # a longer answer earns credit only when it is the ground truth letter by letter
START_OF_THOUGHT, END_OF_THOUGHT = "<think>", "</think>"  # in most templates; others have tags of their own
NAMES_OF_THOUGHTS = ("think", "thinking", "thought", "reasoning", "seed:think")
OPENINGS = (*(f"<{name}>" for name in NAMES_OF_THOUGHTS), "<|begin_of_thought|>", "[THINK]", "◁think▷")
CLOSINGS = (*(f"</{name}>" for name in NAMES_OF_THOUGHTS), "<|end_of_thought|>", "[/THINK]", "◁/think▷")
MAX_BOX_CHARS = 100_000  # a box that does not close within these counts as never closed
BOX = re.compile(r"\\(?:boxed|fbox)\s*(?:\{|([-+]?\d[\d.,/]*))")  # braces may be missing around a number
BRACE = re.compile(r"\\?[{}]|\\\\")  # escaped braces and backslashes are skipped

WRAPPERS = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox|operatorname)\s*\{([^{}]*)\}")
LAYOUT = re.compile(r"\\left(?![a-z])|\\right(?![a-z])|\\displaystyle|\\?\$")
SPACE = re.compile(r"(?:\\[!,;: ]|[~\s])+")
SPACE_BETWEEN_NUMBERS = re.compile(r"(?<=\d) (?=\d)")
NUMBERS_APART = "~"  # keeps 4 2 from being 42
THOUSANDS = re.compile(r"[-+]?\d{1,3}(?:(?:,|\{,\}| )\d{3})+(?:\.\d+)?")
DECIMAL = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)")
RATIO = re.compile(r"([-+]?)(?:\\frac\{([-+]?\d+)\}\{([-+]?\d+)\}|\\frac(\d)(\d)|(\d+)/(\d+))")


def is_thinking(prompt: str, response: str) -> bool:
    """Whether a thought that the prompt's end or the response opens never closes."""
    opened, closed = _last_end(OPENINGS, response), _last_end(CLOSINGS, response)
    return opened > closed or (closed == 0 and prompt.rstrip().endswith(OPENINGS))


def end_of_thought(response: str) -> int:
    """Where the last thought of a response ends; 0 without one."""
    return _last_end(CLOSINGS, response)


def _last_end(tags: Sequence[str], text: str) -> int:
    return max((found + len(tag) for tag in tags if (found := text.rfind(tag)) >= 0), default=0)


def exact_answer(response: str) -> str | None:
    """What follows the last '#' of the response; None without one."""
    _, mark, answer = response.rpartition("#")
    return answer.strip() if mark else None


def boxed_answer(response: str) -> str | None:
    r"""What the last `\boxed{}` after the last `</think>` holds; None when there is none or it never closes."""
    boxes = deque(BOX.finditer(response, end_of_thought(response)), maxlen=1)
    if not boxes:
        return None
    number: str | None = boxes[0][1]
    return _until_closing_brace(response, boxes[0].end()) if number is None else number.rstrip(".,/")


def stated_answer(response: str) -> str:
    r"""What a vote counts: the boxed answer, else what follows the last '#', normalised; empty without either."""
    found = boxed_answer(response)
    if found is None:
        found = exact_answer(response)
    if found is None or len(found) > MAX_ANSWER_CHARS:
        return ""
    text = normalised(found)
    value = rational(text)
    return text if value is None else str(value)


def is_exact_match(response: str, ground_truth: str) -> bool:
    """Whether the text after the last '#' is the ground truth."""
    return exact_answer(response) == ground_truth.strip()


def is_boxed_match(response: str, ground_truth: str) -> bool:
    """Whether the boxed answer reads like the ground truth, or is the same rational number."""
    answer = boxed_answer(response)
    if answer is None:
        return False
    return answer.strip() == ground_truth.strip() or are_equal(answer, ground_truth)


def are_equal(answer: str, ground_truth: str) -> bool:
    """Equal after normalisation, or equal in value as integers, decimals or fractions; an empty answer never is."""
    if max(len(answer), len(ground_truth)) > MAX_ANSWER_CHARS:
        return False
    left, right = normalised(answer), normalised(ground_truth)
    if left == right:
        return left != ""
    value = rational(left)
    return value is not None and value == rational(right)


def normalised(answer: str) -> str:
    """The answer without what does not change its meaning: white space, dollar signs, layout, a final period."""
    text = WRAPPERS.sub(r"\1", answer.replace("\N{MINUS SIGN}", "-").replace("\\%", "%"))
    text = SPACE.sub(" ", LAYOUT.sub("", text).replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac")).strip()
    text = text.rstrip(".").rstrip()
    if THOUSANDS.fullmatch(text):
        return re.sub(r"[^-+.\d]", "", text)
    return SPACE_BETWEEN_NUMBERS.sub(NUMBERS_APART, text).replace(" ", "")


def rational(text: str) -> Fraction | None:
    """The exact value of an integer, decimal or fraction of integers; None for anything else."""
    if DECIMAL.fullmatch(text):
        return Fraction(text)
    ratio = RATIO.fullmatch(text)
    if ratio is None:
        return None
    numerator, denominator = (int(part) for part in ratio.groups()[1:] if part is not None)
    if denominator == 0:
        return None
    return Fraction(numerator, denominator) * (-1 if ratio[1] == "-" else 1)


def _until_closing_brace(text: str, start: int) -> str | None:
    depth = 1
    for brace in BRACE.finditer(text, start, start + MAX_BOX_CHARS):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if depth == 0:
            return text[start : brace.start()]
    return None
