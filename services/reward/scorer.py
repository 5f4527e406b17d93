"""Which function scores a request, and where it runs."""

from collections.abc import Mapping
from typing import Protocol

from services.reward.functions import load, runs_inline
from services.reward.outcome import Outcome, failed, outcome_of_call, score_of
from tppo.rollout import RewardRequest, Score


class Workers(Protocol):
    """Runs functions where they can be killed."""

    async def outcome(self, spec: str, request: RewardRequest) -> Outcome:
        """What the function `spec` makes of the request, within the deadline; never raises on its account."""


class Scorer:
    """Scores by the function that the configuration names for the request's data source."""

    def __init__(self, functions: Mapping[str, str], default_function: str, workers: Workers) -> None:
        self._functions = functions
        self._default_function = default_function
        self._workers = workers

    def score_inline(self, request: RewardRequest) -> Score | None:
        """The score, when it takes no worker."""
        spec = self._spec(request)
        if not spec:
            return score_of(request, _nobody_scores(request.data_source), function="")
        if not runs_inline(spec):
            return None
        return score_of(request, outcome_of_call(load(spec), request), function=spec)

    async def score_in_worker(self, request: RewardRequest) -> Score:
        """The score, made by a worker."""
        spec = self._spec(request)
        return score_of(request, await self._workers.outcome(spec, request), function=spec)

    def _spec(self, request: RewardRequest) -> str:
        return self._functions.get(request.data_source, self._default_function)


def _nobody_scores(data_source: str) -> Outcome:
    return failed(
        f"no reward function for data source {data_source!r}; expected one in reward.functions, "
        "or reward.default_function"
    )
