"""/rollouts: which rollout is where, and one of them with everything that is known about it."""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query

from services.dashboard.api.parameters import Limit, Offset, RolloutName, RunName, page
from services.dashboard.api.problems import ProblemError, problems
from services.dashboard.api_model import LARGEST, ApiModel, Page
from services.dashboard.history.records import RolloutRecord, RolloutState, ScoreRecord, WindowRecord
from services.dashboard.history.run import RunHistory
from services.dashboard.live.view import Views
from services.dashboard.tokens.response import ResponseReader, TokenColumns, TracedResponse, WantedResponse

MAX_SIBLINGS = 50
Sort = Literal["-updated_at", "updated_at", "-length", "length", "-score", "score", "-windows", "windows", "prompt"]
UNSCORED = float("-inf")

SORT_KEYS: dict[str, Callable[[RolloutRecord], Any]] = {
    "updated_at": lambda record: record.updated_at,
    "length": lambda record: record.length,
    "score": lambda record: UNSCORED if record.score is None else record.score,
    "windows": lambda record: len(record.windows),
    "prompt": lambda record: (record.evaluation, -1 if record.prompt is None else record.prompt, record.rollout),
}


class RolloutFacts(ApiModel):
    """A prompt and its response so far."""

    rollout: str
    prompt: int | None
    """Row in the data files, laid end to end; of the validation files where `evaluation` is true."""
    state: RolloutState
    """requested -> ready (window not the last) -> trained -> requested ...; requested -> scoring (response ended) ->
    ready -> retired; parked and dropped have a cause."""
    evaluation: bool
    length: int
    """TracedResponse tokens so far."""
    generator: str
    """That sampled the newest window; empty before the first."""
    slot: int | None
    oldest_version: int | None
    """Of the weights that sampled its tokens."""
    newest_version: int | None
    trained_steps: list[int]
    """That trained its windows."""
    cause: str
    """Why it is parked or was dropped."""
    updated_at: float
    """Seconds since the epoch."""


class RolloutSummary(RolloutFacts):
    """One rollout in one line."""

    windows: int
    """Requested so far."""
    score: float | None


class WindowAnswer(ApiModel):
    """One window of a rollout."""

    window: int
    generator: str
    slot: int | None
    requested: float | None
    """Seconds since the epoch, like the other times."""
    version_requested: int | None
    """The policy's version when it was requested."""
    started: float | None
    ended: float | None
    """Null while it is being sampled."""
    start: int
    """TracedResponse tokens before it."""
    tokens: int
    versions: list[tuple[int, int]]
    """[policy version, number of tokens], in order."""
    finish: str
    """stop, length or failed."""
    is_finished: bool
    """The response ended here."""
    step: int | None
    """That trained it."""


class ScoreAttempt(ApiModel):
    """One attempt to score the response."""

    attempt: int
    status: str
    """SCORED, ABSTAINED, TIMED_OUT or FAILED."""
    score: float | None
    components: dict[str, Any]
    function: str
    seconds: float | None
    error: str
    time: float | None


class ScoreAnswer(ApiModel):
    """The response's score, of the newest attempt, and all attempts."""

    status: str
    score: float | None
    components: dict[str, Any]
    function: str
    attempts: list[ScoreAttempt]


class RolloutDetail(RolloutFacts):
    """Everything that is known about a rollout."""

    prompt_text: str | None
    """Null where the data files cannot be read."""
    ground_truth: str | None
    text: str | None
    """The response as far as there are traces of it."""
    windows: list[WindowAnswer]
    """In order."""
    score: ScoreAnswer | None
    """Null before the first attempt to score it."""
    tokens: TokenColumns | None
    """By position in the response; null with a reason in `tokens_missing`."""
    tokens_missing: str
    """Why there are no tokens, or not all; empty when nothing is missing."""
    siblings: list[RolloutSummary]
    """Other rollouts of the same prompt, the newest first."""


@dataclass(frozen=True)
class Filter:
    """Which rollouts are wanted: all conditions that are given."""

    state: Annotated[RolloutState | None, Query()] = None
    prompt: Annotated[int | None, Query(ge=0, le=LARGEST)] = None
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
        state, prompt, evaluation = self.state, self.prompt, self.evaluation
        low, high = self.min_score, self.max_score
        short, long = self.min_length, self.max_length
        conditions: list[tuple[Any, Callable[[RolloutRecord], bool]]] = [
            (state, lambda record: record.state == state),
            (prompt, lambda record: record.prompt == prompt),
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
        journal = (await views.of(run)).history.journal
        found = wanted.of(journal.rollouts.values())
        found.sort(key=SORT_KEYS[sort.removeprefix("-")], reverse=sort.startswith("-"))
        return Page[RolloutSummary](items=[summary_of(one) for one in page(found, offset, limit)], total=len(found))

    @routes.get("/{rollout}", responses=problems(not_found="no such run or rollout"))
    async def rollout_detail(rollout: RolloutName, run: RunName = None) -> RolloutDetail:
        """One rollout: its text and tokens, windows, scores, and its neighbours of the same prompt."""
        history = (await views.of(run)).history
        record = history.journal.rollouts.get(rollout)
        if record is None:
            raise ProblemError(
                HTTPStatus.NOT_FOUND, "no rollout of that name is known; expected one of /api/v1/rollouts"
            )
        response = await asyncio.to_thread(reader.read, wanted_of(history, record))
        return _detail(history, record, response)

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


def summary_of(record: RolloutRecord) -> RolloutSummary:
    """The rollout in one line."""
    return RolloutSummary(**_facts(record), windows=len(record.windows), score=record.score)


def _facts(record: RolloutRecord) -> dict[str, Any]:
    sampled, versions = record.sampled, record.policy_versions
    return {
        "rollout": record.rollout,
        "prompt": record.prompt,
        "state": record.state,
        "evaluation": record.evaluation,
        "length": record.length,
        "generator": sampled.generator if sampled else "",
        "slot": sampled.slot if sampled else None,
        "oldest_version": min(versions, default=None),
        "newest_version": max(versions, default=None),
        "trained_steps": record.trained_steps,
        "cause": record.cause,
        "updated_at": record.updated_at,
    }


def _detail(history: RunHistory, record: RolloutRecord, response: TracedResponse) -> RolloutDetail:
    siblings = sorted(history.journal.siblings(record), key=lambda one: one.updated_at, reverse=True)
    return RolloutDetail(
        **_facts(record),
        prompt_text=response.prompt_text,
        ground_truth=response.ground_truth,
        text=response.text,
        windows=[_window(record.windows[index]) for index in sorted(record.windows)],
        score=_score(record),
        tokens=response.tokens,
        tokens_missing=response.tokens_missing,
        siblings=[summary_of(one) for one in siblings[:MAX_SIBLINGS]],
    )


def _window(window: WindowRecord) -> WindowAnswer:
    return WindowAnswer(
        window=window.window,
        generator=window.generator,
        slot=window.slot,
        requested=window.requested,
        version_requested=window.version,
        started=window.started,
        ended=window.ended,
        start=window.start,
        tokens=window.tokens,
        versions=list(window.versions),
        finish=window.finish,
        is_finished=window.is_finished,
        step=window.step,
    )


def _score(record: RolloutRecord) -> ScoreAnswer | None:
    if not record.scores:
        return None
    attempts = [_attempt(record.scores[number]) for number in sorted(record.scores)]
    newest = attempts[-1]
    return ScoreAnswer(
        status=newest.status,
        score=newest.score,
        components=newest.components,
        function=newest.function,
        attempts=attempts,
    )


def _attempt(score: ScoreRecord) -> ScoreAttempt:
    return ScoreAttempt(
        attempt=score.attempt,
        status=score.status,
        score=score.score,
        components=score.components,
        function=score.function,
        seconds=score.seconds,
        error=score.error,
        time=score.time,
    )
