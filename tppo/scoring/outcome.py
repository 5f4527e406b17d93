"""What a reward function's return value stands for, in a worker of the service and in a user's own process alike.

    a number                       SCORED
    a table with "score"           SCORED; its further numbers are components, and other entries are left out
    None, or a table whose "score" is None      ABSTAINED
    anything else                  FAILED, with the cause

A table's text "details" says more of a score than its number: the first test that failed, what was expected.

A number is a real number of any kind: int, float, bool, Fraction, Decimal, a scalar of numpy or torch, an array or
tensor of one element. A text is never a number, nor is a complex number. A score or a component that is NaN or infinite
is FAILED with its name. A failure is never a zero.
"""

import math
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType

from tppo.rollout import ScoreStatus

SCORE = "score"
TOKEN_REWARDS = "token_rewards"  # of a table; one for each token of the response, so no component
DETAILS = "details"
MAX_CAUSE_CHARS = 1000  # it travels to the learner and the dashboard
MAX_DETAILS_CHARS = 2000  # so do they


@dataclass(frozen=True, slots=True)
class ScoreRange:
    """Between which bounds a function's scores lie. Raises ValueError when nothing lies between them."""

    minimum: float = -math.inf
    maximum: float = math.inf

    def __post_init__(self) -> None:
        if not self.minimum <= self.maximum:
            raise ValueError(f"range from {self.minimum} to {self.maximum}; expected min_score <= max_score")


ANY_SCORE = ScoreRange()


@dataclass(frozen=True, slots=True)
class Outcome:
    """Status, and the score with its components when there is one, else the cause."""

    status: ScoreStatus
    score: float | None = None
    components: Mapping[str, float] = field(default_factory=dict)
    error: str = ""
    duration_seconds: float = 0.0  # of the call
    details: str = ""  # of a score


ABSTAINED = Outcome(ScoreStatus.ABSTAINED)


def failed(cause: str) -> Outcome:
    """No score, because of a fault of the function or of the process that called it."""
    return Outcome(ScoreStatus.FAILED, error=_text(cause)[:MAX_CAUSE_CHARS])


def timed_out(deadline_seconds: float) -> Outcome:
    """No answer within the deadline."""
    cause = f"no answer within {deadline_seconds:g} s"
    return Outcome(ScoreStatus.TIMED_OUT, error=cause, duration_seconds=deadline_seconds)


def outcome_of(result: object, scores: ScoreRange = ANY_SCORE) -> Outcome:
    """The outcome that a function's return value stands for; an outcome stands for itself."""
    if isinstance(result, Outcome):
        return result
    table = result if isinstance(result, Mapping) else {SCORE: result}
    if SCORE not in table:
        return failed(f'the function returned a table without "score": its keys are {sorted(map(str, table))}')
    if table[SCORE] is None:
        return ABSTAINED
    score = number_of(table[SCORE])
    if score is None:
        value = table[SCORE]
        return failed(f"the function returned {value!r:.200} of type {type(value).__name__}; expected a number")
    components = _components(table)
    if violation := violation_of(score, components, scores):
        return failed(f"the function returned {violation}")
    details = table.get(DETAILS)
    details = _text(details)[:MAX_DETAILS_CHARS] if isinstance(details, str) else ""
    return Outcome(ScoreStatus.SCORED, score, components, details=details)


def violation_of(score: float, components: Mapping[str, float], scores: ScoreRange = ANY_SCORE) -> str:
    """Which of these numbers cannot be, and what was expected; empty when all can."""
    for name, number in ((SCORE, score), *components.items()):
        if not math.isfinite(number):
            return f"{name:.120} = {number}; expected a finite number"
    if not scores.minimum <= score <= scores.maximum:
        return f"{SCORE} = {score}; expected a score from {scores.minimum} to {scores.maximum}"
    return ""


def number_of(value: object) -> float | None:
    """A real number as a float, infinite beyond its range; None for anything else."""
    if isinstance(shape := getattr(value, "shape", None), tuple):  # numpy's arrays and scalars, torch's tensors
        return _only_number(value, shape)
    if not hasattr(value, "__float__"):  # neither text nor bytes nor a complex number has it
        return None
    try:
        return float(value)
    except OverflowError:  # an int beyond float's range
        return math.inf
    except ValueError:  # a signalling NaN
        return math.nan
    except TypeError:  # a symbol of sympy
        return None


def cause_of(error: BaseException) -> str:
    """The exception and the place that raised it, in one line."""
    last = _last_frame(error.__traceback__)
    text = str(error).strip()
    return f"{type(error).__name__}{f': {text}' if text else ''}"[:MAX_CAUSE_CHARS] + last


def _text(text: str) -> str:
    """Without half characters, which no message carries."""
    return text.encode(errors="replace").decode()


def _components(table: Mapping[object, object]) -> dict[str, float]:
    numbers = {str(name): number_of(entry) for name, entry in table.items() if name not in (SCORE, TOKEN_REWARDS)}
    return {name: number for name, number in numbers.items() if number is not None}


def _only_number(array: object, shape: tuple[int, ...]) -> float | None:
    item = getattr(array, "item", None)
    return number_of(item()) if math.prod(shape) == 1 and callable(item) else None


def _last_frame(trace: TracebackType | None) -> str:
    frames = traceback.extract_tb(trace)
    return f" ({frames[-1].filename}, line {frames[-1].lineno}, in {frames[-1].name})" if frames else ""
