"""Which function scores a request, and who calls it."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol

from services.reward.reporting.statistics import Statistics
from services.reward.verifiers.functions import load, outcome_of_call, total
from services.reward.verifiers.placement import Call, Place, calls, runs_inline
from tppo.rollout import RewardRequest, Score
from tppo.score_outcome import Outcome, failed


class Functions(Protocol):
    """Calls functions in other processes."""

    async def outcome(self, spec: str, request: RewardRequest, /) -> Outcome:
        """What the function makes of the request, within the deadline; never raises on its account."""


class Scorer:
    """Scores by the function that the configuration names for a data source, and counts what comes of it."""

    def __init__(
        self, functions: Mapping[str, str], default_function: str, *, workers: Functions, attached: Functions
    ) -> None:
        self._functions = functions
        self._default_function = default_function
        self._elsewhere = {Place.WORKER: workers, Place.ATTACHED: attached}
        self.known_functions = frozenset({*functions.values(), default_function} - {""})
        self.statistics = Statistics()

    def score_inline(self, request: RewardRequest, function: str = "") -> Score | None:
        """The score, when it takes no other process; `function` instead of the data source's own."""
        spec = function or self._functions.get(request.data_source, self._default_function)
        if not spec:
            return self._counted(request, _nobody_scores(request.data_source), "")
        if not runs_inline(spec):
            return None
        return self._counted(request, outcome_of_call(load(spec), request), spec)

    async def score(self, request: RewardRequest, function: str = "") -> Score:
        """The score, by whoever makes it."""
        if score := self.score_inline(request, function):
            return score
        spec = function or self._functions.get(request.data_source, self._default_function)
        return self._counted(request, await self._outcome(spec, request), spec)

    async def _outcome(self, spec: str, request: RewardRequest) -> Outcome:
        called = calls(spec)
        outcomes = await asyncio.gather(*(self._outcome_of_call(call, request) for call in called))
        if len(called) == 1 and called[0].term.weight == 1.0:
            return outcomes[0]
        weighted = total([call.term for call in called], outcomes)
        return replace(weighted, duration_seconds=max(one.duration_seconds for one in outcomes))

    async def _outcome_of_call(self, call: Call, request: RewardRequest) -> Outcome:
        if call.place is Place.INLINE:
            return outcome_of_call(load(call.spec), request)
        return await self._elsewhere[call.place].outcome(call.spec, request)

    def _counted(self, request: RewardRequest, outcome: Outcome, function: str) -> Score:
        score = score_of(request, outcome, function=function)
        self.statistics.record(request, score)
        return score


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


def _nobody_scores(data_source: str) -> Outcome:
    return failed(
        f"no reward function for data source {data_source!r}; expected one in reward.functions, "
        "or reward.default_function"
    )
