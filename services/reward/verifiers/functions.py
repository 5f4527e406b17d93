"""Reward functions by their name in the configuration, ready to be called with a request; sums of several."""

import contextlib
import dataclasses
import functools
import inspect
import time
from collections.abc import Callable, Sequence

from services.reward.verifiers import gym
from services.reward.verifiers.built_in import BUILT_IN, RewardFunction
from services.reward.verifiers.expressions import Term, terms
from services.reward.verifiers.user_files import function_of_file, is_coroutine_function
from tppo.rollout import RewardRequest, ScoreStatus
from tppo.scoring.outcome import Outcome, cause_of, failed, outcome_of

WARM_UP = RewardRequest(
    *("warm-up", 0, "math", ""),
    response=r"\boxed{\frac{\sqrt{2}x^2-3(y+1)}{2}+\sin x}",
    ground_truth=r"\frac{x^2}{\sqrt{2}}-\frac{3y}{2}-1.5+\sin x",
)


@functools.cache
def load(spec: str) -> RewardFunction:
    """The function that a name in the configuration stands for; a user's file is executed.

    Raises ValueError with one sentence.
    """
    found = terms(spec)
    functions = [_function(term, spec) for term in found]
    if len(functions) == 1 and found[0].weight == 1.0:
        return functions[0]
    return functools.partial(_weighted_sum, found, functions)


def is_asynchronous(spec: str) -> bool:
    """Whether it is one function of a user's file, declared with `async def`: calls of it can overlap."""
    found = terms(spec)
    return len(found) == 1 and found[0].is_file and is_coroutine_function(found[0].name)


def preload(specs: Sequence[str]) -> None:
    """Load the built-ins among the functions, and let them fill their caches: workers forked after that share both."""
    for spec in specs:
        with contextlib.suppress(ValueError):  # each worker reports it, and the service reads that
            if not any(term.is_file for term in terms(spec)):
                outcome_of_call(load(spec), WARM_UP)


def outcome_of_call(function: Callable[[RewardRequest], object], request: RewardRequest) -> Outcome:
    """Call a function on a request; whatever it raises becomes FAILED."""
    started_at = time.perf_counter()
    try:
        outcome = outcome_of(function(request))
    except Exception as error:  # other people's code: any exception is a failure of the function, not of the service
        outcome = failed(cause_of(error))
    return dataclasses.replace(outcome, duration_seconds=time.perf_counter() - started_at)


def total(found: Sequence[Term], results: Sequence[object]) -> Outcome:
    """The weighted sum with each term as a component; a term without a score leaves the whole without one."""
    outcomes = [outcome_of(result) for result in results]
    for term, outcome in zip(found, outcomes, strict=True):
        if outcome.status is not ScoreStatus.SCORED:
            return Outcome(outcome.status, error=f"{term.name}: {outcome.error}" if outcome.error else "")
    scores = [outcome.score or 0.0 for outcome in outcomes]
    names = zip(_component_names(found), found, scores, strict=True)
    components = {name: score for name, term, score in names if not term.is_constant}
    for outcome in outcomes:
        components.update(outcome.components)
    weighted = sum(term.weight * score for term, score in zip(found, scores, strict=True))
    details = "; ".join(outcome.details for outcome in outcomes if outcome.details)
    return outcome_of({**components, "score": weighted, "details": details})


def _function(term: Term, spec: str) -> RewardFunction:
    if term.is_file:
        return function_of_file(term.name)
    if term.gym_task:
        return gym.verifier(term.gym_task)
    if term.name not in BUILT_IN:
        expected = f"{', '.join(BUILT_IN)}, reasoning_gym:task, path/to/file.py:name or grpc:name"
        unknown = "" if term.name == spec else f"{term.name!r} is unknown; "
        raise ValueError(f"reward function {spec!r}: {unknown}expected {expected}")
    make = BUILT_IN[term.name].make
    try:
        inspect.signature(make).bind(*term.arguments, **term.options)
        return make(*term.arguments, **term.options)
    except (TypeError, ValueError) as error:
        raise ValueError(f"reward function {spec!r}: {term.name}: {error}") from error


def _weighted_sum(found: Sequence[Term], functions: Sequence[RewardFunction], request: RewardRequest) -> object:
    """The sum as an outcome, awaitable when one of the functions is asynchronous."""
    results = [function(request) for function in functions]
    if any(map(inspect.isawaitable, results)):
        return _awaited_sum(found, results)
    return total(found, results)


async def _awaited_sum(found: Sequence[Term], results: Sequence[object]) -> Outcome:
    return total(found, [await result if inspect.isawaitable(result) else result for result in results])


def _component_names(found: Sequence[Term]) -> list[str]:
    """The terms' names, numbered where one comes twice."""
    names = [term.name.rpartition("/")[2] for term in found]
    return [name if names.count(name) == 1 else f"{name}_{index}" for index, name in enumerate(names)]
