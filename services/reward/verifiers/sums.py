"""Weighted sums of reward functions, made of values, of awaitables, or of what several processes answered."""

import inspect
from collections.abc import Sequence

from services.reward.outcome import Outcome, outcome_of
from services.reward.verifiers.built_in import RewardFunction
from services.reward.verifiers.expressions import Term
from tppo.rollout import RewardRequest, ScoreStatus


def weighted_sum(found: Sequence[Term], functions: Sequence[RewardFunction], request: RewardRequest) -> object:
    """The sum as an outcome, awaitable when one of the functions is asynchronous."""
    results = [function(request) for function in functions]
    if any(map(inspect.isawaitable, results)):
        return _weighted_later(found, results)
    return total(found, results)


async def _weighted_later(found: Sequence[Term], results: Sequence[object]) -> Outcome:
    return total(found, [await result if inspect.isawaitable(result) else result for result in results])


def total(found: Sequence[Term], results: Sequence[object]) -> Outcome:
    """The weighted sum with each term as a component; a term without a score leaves the whole without one."""
    outcomes = [outcome_of(result) for result in results]
    for term, outcome in zip(found, outcomes, strict=True):
        if outcome.status is not ScoreStatus.SCORED:
            return Outcome(outcome.status, error=f"{term.name}: {outcome.error}" if outcome.error else "")
    scores = [outcome.score or 0.0 for outcome in outcomes]
    components = dict(zip(_component_names(found), scores, strict=True))
    for outcome in outcomes:
        components.update(outcome.components)
    weighted = sum(term.weight * score for term, score in zip(found, scores, strict=True))
    return outcome_of({**components, "score": weighted})


def _component_names(found: Sequence[Term]) -> list[str]:
    """The terms' names, numbered where one comes twice."""
    names = [term.name.rpartition("/")[2] for term in found]
    return [name if names.count(name) == 1 else f"{name}_{index}" for index, name in enumerate(names)]
