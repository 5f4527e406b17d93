"""A rollout in the answers: in one line, or with everything that is known about it."""

from typing import Any

from services.dashboard.api_model import ApiModel
from services.dashboard.history.records import RolloutRecord, RolloutState, ScoreRecord, WindowRecord
from services.dashboard.history.responses import ResponseIndex
from services.dashboard.history.run import RunHistory
from services.dashboard.tokens.response import TokenColumns, TracedResponse

MAX_SIBLINGS = 50


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
    preview: str | None
    """How its response begins, where that is kept (reward.kept_prompts); null elsewhere."""


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
    details: str
    """What the function says of the score, such as the first test that failed."""
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
    """The response as far as there are traces of it; without one, the kept response."""
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
    num_kept_of_same_prompt: int
    """Responses that /rollouts/{rollout}/same-prompt shows side by side."""


def summary_of(record: RolloutRecord, responses: ResponseIndex) -> RolloutSummary:
    """The rollout in one line."""
    kept = responses.of(record.rollout)
    preview = kept.preview if kept else None
    return RolloutSummary(**_facts(record), windows=len(record.windows), score=record.score, preview=preview)


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


def detail_of(record: RolloutRecord, history: RunHistory, response: TracedResponse) -> RolloutDetail:
    """The rollout with its text and tokens, windows, scores, and the other rollouts of its prompt."""
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
        siblings=[summary_of(one, history.responses) for one in siblings[:MAX_SIBLINGS]],
        num_kept_of_same_prompt=len(history.responses.of_same_prompt(record.rollout)),
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
        details=score.details,
        time=score.time,
    )
