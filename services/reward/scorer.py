"""Which function scores a request, and in which process."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol

from services.reward.reporting.statistics import Statistics
from services.reward.verifiers.answers import stated_answer
from services.reward.verifiers.functions import load, outcome_of_call, total
from services.reward.verifiers.placement import Call, Place, calls
from tppo.rollout import RewardRequest, Score
from tppo.scoring.outcome import Outcome, failed


class Functions(Protocol):
    """Calls functions in other processes."""

    async def outcome(self, spec: str, request: RewardRequest, /) -> Outcome:
        """What the function makes of the request, within the deadline; never raises on its account."""


class Scorer:
    """Scores by the function that the configuration names for a data source, and counts the outcomes."""

    def __init__(
        self, functions: Mapping[str, str], default_function: str, *, workers: Functions, attached: Functions
    ) -> None:
        self._functions = functions
        self._default_function = default_function
        self._elsewhere = {Place.WORKER: workers, Place.ATTACHED: attached}
        self.known_functions = frozenset({*functions.values(), default_function} - {""})
        self.statistics = Statistics()

    async def score(self, request: RewardRequest, function: str = "") -> Score:
        """The score, by `function` or else by the data source's own."""
        spec = function or self._functions.get(request.data_source, self._default_function)
        outcome = await self._outcome(spec, request) if spec else _no_function(request.data_source)
        score = score_of(request, outcome, function=spec)
        self.statistics.record(request, score)
        return score

    async def _outcome(self, spec: str, request: RewardRequest) -> Outcome:
        called = calls(spec)
        if len(called) == 1 and called[0].term.weight == 1.0:
            return await self._outcome_of_call(called[0], request)
        outcomes = await asyncio.gather(*(self._outcome_of_call(call, request) for call in called))
        weighted = total([call.term for call in called], outcomes)
        return replace(weighted, duration_seconds=max(one.duration_seconds for one in outcomes))

    async def _outcome_of_call(self, call: Call, request: RewardRequest) -> Outcome:
        if call.place is Place.INLINE:
            return outcome_of_call(load(call.spec), request)
        return await self._elsewhere[call.place].outcome(call.spec, request)


def score_of(request: RewardRequest, outcome: Outcome, *, function: str) -> Score:
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
        details=outcome.details,
        answer=stated_answer(request.response) if request.is_evaluation and outcome.score is not None else "",
    )


def _no_function(data_source: str) -> Outcome:
    return failed(
        f"no reward function for data source {data_source!r}; expected one in reward.functions, "
        "or reward.default_function"
    )
