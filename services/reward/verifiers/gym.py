"""The verifiers of the library reasoning-gym, by the name of their task; full marks or nothing.

The library gives partial credit to an answer that merely contains the right one; here only its full marks count.
Some of its verifiers evaluate the answer as Python or as sympy's Python: theirs is checked before that.
"""

import ast
import json
import re
from collections.abc import Callable
from typing import Any

from services.reward.verifiers.answers import boxed_answer, end_of_thought, is_thinking
from tppo.rollout import RewardRequest

ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
LITERAL_TASKS = {"binary_matrix", "n_queens", "spiral_matrix", "string_insertion"}  # call eval
SYMBOLIC_TASKS = {
    *("countdown", "puzzle24", "polynomial_multiplication"),
    *("simple_integration", "intermediate_integration"),
}  # call sympy's parse_expr, which calls eval
FORMULA = re.compile(r"[\w\s+\-*/^().,]*")
NAME = re.compile(r"[^\W\d]\w*")
FORMULA_NAMES = {"pi", "sqrt", "exp", "log", "ln", "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh"}
ATTRIBUTE = re.compile(r"\.\s*[^\W\d]")


def verifier(task: str) -> Callable[[RewardRequest], float]:
    """1 for full marks. Raises ValueError when there is no such task."""
    try:
        from reasoning_gym.factory import DATASETS, get_score_answer_fn
    except ImportError as error:
        raise ValueError(f"{error}; expected pip install 'tppo[reasoning-gym]'") from error
    if task not in DATASETS or task == "composite":
        raise ValueError(f"reasoning-gym has no task {task!r}; expected one such as {', '.join(sorted(DATASETS)[:3])}")
    score_answer = get_score_answer_fn(task)

    def verdict(request: RewardRequest) -> float:
        answer = "" if is_thinking(request.prompt, request.response) else stated_answer(request.response)
        if answer == request.ground_truth:
            return 1.0
        if not is_safe_to_evaluate(answer, task):
            return 0.0
        return float(score_answer(answer, _entry(request)) >= 1.0)

    return verdict


def stated_answer(response: str) -> str:
    r"""What the last <answer> behind the last thought holds, else the last `\boxed{}`, else all of it."""
    text = response[end_of_thought(response) :]
    if found := ANSWER.findall(text):
        return str(found[-1]).strip()
    boxed = boxed_answer(text)
    return text.strip() if boxed is None else boxed.strip()


def is_safe_to_evaluate(answer: str, task: str) -> bool:
    """Whether the task's verifier may see the answer: only a literal or a formula where it would be evaluated."""
    if task in LITERAL_TASKS:
        return _is_literal(answer)
    if task in SYMBOLIC_TASKS:
        names = NAME.findall(answer)
        is_formula = FORMULA.fullmatch(answer) is not None and ATTRIBUTE.search(answer) is None
        return is_formula and all(len(name) == 1 or name in FORMULA_NAMES for name in names)
    return True


def _is_literal(answer: str) -> bool:
    try:
        ast.literal_eval(answer)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return False
    return True


def _entry(request: RewardRequest) -> dict[str, Any]:
    """What the library's data set made: the row's extra_info, or its `metadata`."""
    extra_info = json.loads(request.extra_info or "{}")
    return {
        "question": request.prompt,
        "answer": request.ground_truth,
        "metadata": extra_info.get("metadata", extra_info),
    }
