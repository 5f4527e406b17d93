"""The built-in reward functions, each made from the arguments that the configuration gives it.

`math`, `code`, `regex` and `repetition` take a time that depends on what a response holds: they run in a worker.
"""

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from services.reward.verifiers.answers import (
    END_OF_THOUGHT,
    START_OF_THOUGHT,
    is_boxed_match,
    is_exact_match,
    is_thinking,
)
from tppo.rollout import FinishReason, RewardRequest
from tppo.scoring.outcome import failed

RewardFunction = Callable[[RewardRequest], object]  # its result is for `outcome_of`, or awaitable
UNFINISHED = ("thought", "cut", "score")
ALL_TESTS_CPU_SECONDS = 3600  # of one process of a program; each test has its own deadline


@dataclass(frozen=True, slots=True)
class BuiltIn:
    """How to make a function, and whether its time is bounded by the length of the response."""

    make: Callable[..., RewardFunction]
    is_bounded: bool


def finished_response(unfinished: str) -> Callable[[RewardRequest], str]:
    """The response in which an answer is looked for: nothing where an unfinished one has none.

    A thought that never closes holds no answer ("thought"), nor does a response that was cut ("cut"); "score" looks
    into every response.
    """
    if unfinished not in UNFINISHED:
        raise ValueError(f"unfinished={unfinished!r}: expected {', '.join(UNFINISHED)}")

    def response(request: RewardRequest) -> str:
        is_cut = unfinished == "cut" and request.finish_reason == FinishReason.LENGTH
        is_left_out = unfinished != "score" and (is_cut or is_thinking(request.prompt, request.response))
        return "" if is_left_out else request.response

    return response


def exact(unfinished: str = "thought") -> RewardFunction:
    """1 when the text after the last '#' is the ground truth."""
    finished = finished_response(unfinished)
    return lambda request: float(is_exact_match(finished(request), request.ground_truth))


def boxed(unfinished: str = "thought") -> RewardFunction:
    r"""1 when the last `\boxed{}` holds the ground truth, letter by letter or as the same rational number."""
    finished = finished_response(unfinished)
    return lambda request: float(is_boxed_match(finished(request), request.ground_truth))


def math(strict: bool | str = "auto", tolerance: float = 0.0, unfinished: str = "thought") -> RewardFunction:
    r"""1 when the last `\boxed{}` has the value of the ground truth; abstains when that is damaged."""
    finished = finished_response(unfinished)
    try:
        from services.reward.verifiers.mathematics.verifier import Grading, is_correct
    except ImportError as error:
        raise ValueError(f"{error}; expected pip install 'tppo[reward]'") from error
    if strict not in (True, False, "auto") or not isinstance(tolerance, (int, float)) or not 0 <= tolerance < 1:
        raise ValueError(
            f'math(strict={strict!r}, tolerance={tolerance!r}): expected strict = true, false or "auto", and a '
            "tolerance of at least 0 and below 1"
        )
    grading = Grading(strict, tolerance)

    def verdict(request: RewardRequest) -> float | None:
        is_right = is_correct(finished(request), request.ground_truth, grading, prompt=request.prompt)
        return None if is_right is None else float(is_right)

    return verdict


def regex(pattern: str) -> RewardFunction:
    """1 when the pattern is found in the response."""
    try:
        compiled = re.compile(pattern, re.DOTALL)
    except re.error as error:
        raise ValueError(f"pattern {pattern!r}: {error}; expected a regular expression of Python") from error
    return lambda request: float(compiled.search(request.response) is not None)


def thought_format() -> RewardFunction:
    """1 when the response is one thought in <think> and </think>, then an answer."""

    def verdict(request: RewardRequest) -> float:
        text = request.response.strip()
        is_one_thought = text.count(START_OF_THOUGHT) == text.count(END_OF_THOUGHT) == 1
        return float(is_one_thought and text.startswith(START_OF_THOUGHT) and not text.endswith(END_OF_THOUGHT))

    return verdict


def length(limit: int, buffer: int) -> RewardFunction:
    """0 while `buffer` tokens are left to the limit, from there in a straight line down to -1 at the limit (DAPO)."""
    if not 0 < buffer <= limit:
        raise ValueError(f"length(limit={limit}, buffer={buffer}): expected 0 < buffer <= limit")
    return lambda request: max(-1.0, min(0.0, (limit - buffer - request.num_response_tokens) / buffer))


def repetition(ngram: int = 4) -> RewardFunction:
    """Minus the share of word n-grams that occurred before: 0 without repetition, towards -1 for a loop."""
    if ngram < 1:
        raise ValueError(f"repetition(ngram={ngram}): expected at least 1")

    def penalty(request: RewardRequest) -> float:
        words = request.response.lower().split()
        num_ngrams = len(words) - ngram + 1
        if num_ngrams < 1:
            return 0.0
        distinct = {tuple(words[start : start + ngram]) for start in range(num_ngrams)}
        return len(distinct) / num_ngrams - 1.0

    return penalty


def code(
    timeout_seconds: float = 10.0,
    memory_mb: int = 512,
    partial_credit: bool = False,
    tolerance: float = 0.0,
    format: str = "",
    unfinished: str = "thought",
) -> RewardFunction:
    """1 when the program in the response passes all tests of the row, in a sandbox; their share with partial credit."""
    from services.reward.verifiers.programs.formats import FORMATS
    from services.reward.verifiers.programs.settings import CodeSettings
    from services.reward.verifiers.programs.verdict import Judging
    from services.reward.verifiers.sandbox.isolation import ResourceLimits
    from services.reward.verifiers.sandbox.program import IsolationError, isolation

    if timeout_seconds <= 0 or memory_mb < 1:
        raise ValueError(f"code(timeout_seconds={timeout_seconds}, memory_mb={memory_mb}): expected more than 0")
    if format not in ("", *FORMATS):
        raise ValueError(f"code(format={format!r}): expected one of {', '.join(FORMATS)}")
    try:
        isolation()
    except IsolationError as error:
        expected = "Linux 5.12 or newer where this user may make namespaces, or reward.allow_unsandboxed = true"
        raise ValueError(f"no sandbox for programs: {error}; expected {expected} (docs/rewards.md)") from error
    limits = ResourceLimits(memory_bytes=memory_mb * 2**20, cpu_seconds=ALL_TESTS_CPU_SECONDS)
    finished = finished_response(unfinished)
    judging = Judging(CodeSettings(timeout_seconds, limits, partial_credit, tolerance, format))

    def score(request: RewardRequest) -> object:
        try:
            verdict = judging.verdict(replace(request, response=finished(request)))
        except ValueError as error:  # the row's tests can judge no program
            return failed(str(error))
        share = verdict.share
        scored = share if partial_credit else float(verdict.is_right)
        return {"score": scored, "share_passed": share, "details": verdict.details}

    return score


def program_seconds(arguments: Sequence[object], options: Mapping[str, object]) -> float:
    """The deadline of a program under `code` with these arguments."""
    bound = inspect.signature(code).bind(*arguments, **options)
    bound.apply_defaults()
    return float(bound.arguments["timeout_seconds"])


def constant(value: float = 1.0) -> RewardFunction:
    """The same for every response: what a number in a sum stands for."""
    return lambda request: float(value)


BUILT_IN = {
    "exact": BuiltIn(exact, is_bounded=True),
    "boxed": BuiltIn(boxed, is_bounded=True),
    "math": BuiltIn(math, is_bounded=False),
    "format": BuiltIn(thought_format, is_bounded=True),
    "length": BuiltIn(length, is_bounded=True),
    "code": BuiltIn(code, is_bounded=False),
    "regex": BuiltIn(regex, is_bounded=False),
    "repetition": BuiltIn(repetition, is_bounded=False),
    "constant": BuiltIn(constant, is_bounded=True),
}
