"""/rollouts: which rollout is where, and one of them with everything that is known about it."""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query

from services.dashboard.api.parameters import Limit, Offset, RolloutName, RunName, page
from services.dashboard.api.problems import ProblemError, problems
from services.dashboard.api.rollout_answers import RolloutDetail, RolloutSummary, detail_of, summary_of
from services.dashboard.api_model import LARGEST, Page
from services.dashboard.history.records import RolloutRecord, RolloutState
from services.dashboard.history.responses import text_of
from services.dashboard.history.run import RunHistory
from services.dashboard.live.view import Views
from services.dashboard.tokens.response import ResponseReader, WantedResponse

Sort = Literal["-updated_at", "updated_at", "-length", "length", "-score", "score", "-windows", "windows", "prompt"]
UNSCORED = float("-inf")

SORT_KEYS: dict[str, Callable[[RolloutRecord], Any]] = {
    "updated_at": lambda record: record.updated_at,
    "length": lambda record: record.length,
    "score": lambda record: UNSCORED if record.score is None else record.score,
    "windows": lambda record: len(record.windows),
    "prompt": lambda record: (record.evaluation, -1 if record.prompt is None else record.prompt, record.rollout),
}


@dataclass(frozen=True)
class Filter:
    """Which rollouts are wanted: all conditions that are given."""

    state: Annotated[RolloutState | None, Query()] = None
    prompt: Annotated[int | None, Query(ge=0, le=LARGEST)] = None
    step: Annotated[
        int | None, Query(ge=0, le=LARGEST, description="That trained a window of it; of an evaluation, its step.")
    ] = None
    evaluation: Annotated[bool | None, Query()] = None
    min_score: Annotated[float | None, Query(allow_inf_nan=False)] = None
    max_score: Annotated[float | None, Query(allow_inf_nan=False)] = None
    min_length: Annotated[int | None, Query(ge=0, le=LARGEST, description="TracedResponse tokens.")] = None
    max_length: Annotated[int | None, Query(ge=0, le=LARGEST, description="TracedResponse tokens.")] = None

    def of(self, records: Iterable[RolloutRecord]) -> list[RolloutRecord]:
        """Those that meet the conditions."""
        kept = list(records)
        for condition in self._conditions():
            kept = [record for record in kept if condition(record)]
        return kept

    def _conditions(self) -> list[Callable[[RolloutRecord], bool]]:
        state, prompt, step, evaluation = self.state, self.prompt, self.step, self.evaluation
        low, high = self.min_score, self.max_score
        short, long = self.min_length, self.max_length
        conditions: list[tuple[Any, Callable[[RolloutRecord], bool]]] = [
            (state, lambda record: record.state == state),
            (prompt, lambda record: record.prompt == prompt),
            (step, lambda record: step in record.steps),
            (evaluation, lambda record: record.evaluation == evaluation),
            (low, lambda record: record.score is not None and record.score >= low),  # type: ignore[operator]
            (high, lambda record: record.score is not None and record.score <= high),  # type: ignore[operator]
            (short, lambda record: record.length >= short),  # type: ignore[operator]
            (long, lambda record: record.length <= long),  # type: ignore[operator]
        ]
        return [condition for given, condition in conditions if given is not None]


def router(views: Views, reader: ResponseReader) -> APIRouter:
    """The addresses."""
    routes = APIRouter(prefix="/rollouts", tags=["rollouts"], responses=problems(not_found="no such run"))

    @routes.get("")
    async def rollouts(
        wanted: Annotated[Filter, Depends()],
        run: RunName = None,
        sort: Sort = "-updated_at",
        offset: Offset = 0,
        limit: Limit = 100,
    ) -> Page[RolloutSummary]:
        """Those that meet every condition, sorted; a minus reverses the order."""
        history = (await views.of(run)).history
        await history.responses.refresh()
        found = wanted.of(history.journal.rollouts.values())
        found.sort(key=SORT_KEYS[sort.removeprefix("-")], reverse=sort.startswith("-"))
        items = [summary_of(one, history.responses) for one in page(found, offset, limit)]
        return Page[RolloutSummary](items=items, total=len(found))

    @routes.get("/{rollout}", responses=problems(not_found="no such run or rollout"))
    async def rollout_detail(rollout: RolloutName, run: RunName = None) -> RolloutDetail:
        """One rollout: its text and tokens, windows, scores, and its neighbours of the same prompt."""
        history = (await views.of(run)).history
        record = history.journal.rollouts.get(rollout)
        if record is None:
            raise ProblemError(
                HTTPStatus.NOT_FOUND, "no rollout of that name is known; expected one of /api/v1/rollouts"
            )
        await history.responses.refresh()
        kept = history.responses.of(rollout)
        response = await asyncio.to_thread(reader.read, wanted_of(history, record))
        if response.text is None and kept is not None:
            response = replace(response, text=await asyncio.to_thread(text_of, kept))
        return detail_of(record, history, response)

    return routes


def wanted_of(history: RunHistory, record: RolloutRecord) -> WantedResponse:
    """What a thread needs to read the response, while the journal goes on changing."""
    return WantedResponse(
        traces=history.paths.traces,
        rollout=record.rollout,
        steps=tuple(dict.fromkeys(record.trained_steps)),
        num_tokens=record.length,
        prompt=record.prompt,
        data_files=tuple(history.data_files(is_evaluation=record.evaluation)),
        prompt_key=str(history.setting("data", "prompt_key") or "prompt"),
        is_evaluation=record.evaluation,
        is_traced=history.setting("trace", "enabled") is not False,
        tokenizer_files=history.tokenizer_files,
    )
