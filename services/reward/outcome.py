"""What became of one call of a reward function; the only place that decides what counts as a score.

A failure is never a zero: an exception, NaN, infinity or a value of another type is FAILED with its cause.
"""

import dataclasses
import math
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType

from tppo.rollout import RewardRequest, Score, ScoreStatus

MAX_CAUSE_CHARS = 1000  # of the text of an exception; it travels to the learner and the dashboard


@dataclass(frozen=True, slots=True)
class Outcome:
    """Status, and the score with its components when there is one, else the cause."""

    status: ScoreStatus
    score: float | None = None
    components: Mapping[str, float] = field(default_factory=dict)
    error: str = ""
    duration_seconds: float = 0.0  # of the call


ABSTAINED = Outcome(ScoreStatus.ABSTAINED)


def failed(cause: str) -> Outcome:
    """No score, because of a fault of the function or of its worker."""
    return Outcome(ScoreStatus.FAILED, error=cause[:MAX_CAUSE_CHARS])


def timed_out(deadline_seconds: float) -> Outcome:
    """No answer within the deadline."""
    cause = f"no answer within {deadline_seconds:g} s"
    return Outcome(ScoreStatus.TIMED_OUT, error=cause, duration_seconds=deadline_seconds)


def outcome_of(result: object) -> Outcome:
    """The outcome that a function's return value stands for: a number, a table with "score", or None to abstain.

    Further numbers in a table are components; texts and other entries are left out.
    """
    if isinstance(result, Outcome):
        return result
    if result is None:
        return ABSTAINED
    if not isinstance(result, Mapping):
        return _scored(result, {})
    if "score" not in result:
        return failed(f'the function returned a table without "score": its keys are {sorted(map(str, result))}')
    rest = {str(key): value for key, value in result.items() if key != "score"}
    return ABSTAINED if result["score"] is None else _scored(result["score"], rest)


def outcome_of_call(function: Callable[[RewardRequest], object], request: RewardRequest) -> Outcome:
    """Call a function on a request; whatever it raises becomes FAILED."""
    started_at = time.perf_counter()
    try:
        outcome = outcome_of(function(request))
    except Exception as error:  # other people's code: any exception is its own affair, not the service's
        outcome = failed(cause_of(error))
    return dataclasses.replace(outcome, duration_seconds=time.perf_counter() - started_at)


def cause_of(error: Exception) -> str:
    """The exception and the place that raised it, in one line."""
    last = _last_frame(error.__traceback__)
    text = str(error).strip()
    return f"{type(error).__name__}{f': {text}' if text else ''}"[:MAX_CAUSE_CHARS] + last


def score_of(request: RewardRequest, outcome: Outcome, *, function: str) -> Score:
    """The record that answers a request."""
    return Score(
        rollout_id=request.rollout_id,
        attempt=request.attempt,
        status=outcome.status,
        score=outcome.score,
        components=outcome.components,
        function=function,
        error=outcome.error,
        duration_seconds=outcome.duration_seconds,
        is_evaluation=request.is_evaluation,
    )


def _scored(value: object, rest: Mapping[str, object]) -> Outcome:
    score = _number(value)
    if score is None:
        return failed(f"the function returned {value!r:.200} of type {type(value).__name__}; expected a number")
    components = {key: number for key, entry in rest.items() if (number := _number(entry)) is not None}
    for key, number in {"score": score, **components}.items():
        if not math.isfinite(number):
            return failed(f"the function returned {key} = {number}; expected a finite number")
    return Outcome(ScoreStatus.SCORED, score, components)


def _number(value: object) -> float | None:
    """A float, int or bool, or the one number of an array of numpy or torch, as a float; None for anything else."""
    if isinstance(value, (int, float)):
        return _as_float(value)
    item = getattr(value, "item", None)
    if callable(item) and getattr(value, "shape", None) in ((), (1,)):
        return _number(item())
    return None


def _as_float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:  # an int beyond float's range
        return math.inf


def _last_frame(trace: TracebackType | None) -> str:
    frames = traceback.extract_tb(trace)
    return f" ({frames[-1].filename}, line {frames[-1].lineno}, in {frames[-1].name})" if frames else ""
