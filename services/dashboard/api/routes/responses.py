"""/responses: the texts that the run has kept, searched; and those of one prompt over the steps, side by side."""

import asyncio
from bisect import bisect_right
from typing import Annotated

from fastapi import APIRouter, Query

from services.dashboard.api.parameters import Limit, Moment, RolloutName, RunName
from services.dashboard.api.problems import problems
from services.dashboard.api_model import ApiModel
from services.dashboard.history.columns import evenly
from services.dashboard.history.response_search import Passage, SearchResult, search
from services.dashboard.history.responses import KeptResponse, ResponseIndex, TextReader
from services.dashboard.history.run import RunHistory
from services.dashboard.live.view import Views
from tppo.rollout import evaluated_step
from tppo.run_folder.json_lines import Fields

SEARCH_SECONDS = 2.0
MAX_SEARCHES = 2
"""At once; others wait for their turn."""
MAX_CHARACTERS = 20_000
"""Of one response side by side with others."""
MEGABYTE = 1e6
NONE_KEPT = (
    "No response is kept; expected reward.kept_prompts above 0, or reward.log_responses = true, and reward services "
    "that write to this disk."
)


class Excerpt(ApiModel):
    """A part of a response."""

    before: str
    found: str
    """What was looked for; empty where nothing was."""
    after: str


class KeptFacts(ApiModel):
    """A kept response without its text."""

    rollout: str
    evaluation: bool
    step: int | None
    """Training steps done when it was scored; of an evaluation, those of its weights; null before the first."""
    status: str
    """Of its newest score: SCORED, ABSTAINED, TIMED_OUT or FAILED."""
    score: float | None
    length: int
    """Tokens."""
    time: float
    """Of the score, seconds since the epoch."""
    is_listed: bool
    """Whether /rollouts has it; it forgets the oldest."""


class KeptSummary(KeptFacts):
    """One kept response in one line."""

    excerpt: Excerpt


class KeptResponses(ApiModel):
    """Kept responses, the newest first."""

    items: list[KeptSummary]
    num_searched: int
    total: int
    """Those that the conditions but the text allow."""
    older_than: float | None
    """The search ended there; the same request with this `older_than` continues it. Null: nothing is left."""
    note: str
    """What is missing in the answer, in sentences; empty when nothing is."""


class KeptText(KeptFacts):
    """One kept response."""

    response: str
    num_characters: int
    """Of the whole response."""


class SamePrompt(ApiModel):
    """Kept responses to one prompt, in the order of their scores."""

    prompt: str
    ground_truth: str
    responses: list[KeptText]
    total: int
    """How many are kept."""
    note: str
    """What is missing in the answer, in sentences; empty when nothing is."""


def router(views: Views) -> APIRouter:
    """The addresses."""
    routes = APIRouter(tags=["rollouts"], responses=problems(not_found="no such run"))
    turns = asyncio.Semaphore(MAX_SEARCHES)

    @routes.get("/responses")
    async def responses(
        run: RunName = None,
        text: Annotated[str, Query(max_length=200, description="Found in upper or lower case.")] = "",
        evaluation: bool | None = None,
        min_score: Annotated[float | None, Query(allow_inf_nan=False)] = None,
        max_score: Annotated[float | None, Query(allow_inf_nan=False)] = None,
        older_than: Moment = None,
        limit: Limit = 50,
    ) -> KeptResponses:
        """The kept responses that meet every condition; a search for a text ends after a few seconds, and says so."""
        history = (await views.of(run)).history
        await history.responses.refresh()
        candidates = [
            one
            for one in history.responses.newest_first()
            if (evaluation is None or one.is_evaluation == evaluation)
            and (older_than is None or one.time < older_than)
            and _is_between(one.score, min_score, max_score)
        ]
        if not text:
            return _listed(history, candidates, limit)
        async with turns:
            result = await asyncio.to_thread(search, candidates, text, limit=limit, seconds=SEARCH_SECONDS)
        return _answer(history, result, total=len(candidates))

    @routes.get("/rollouts/{rollout}/same-prompt")
    async def same_prompt(
        rollout: RolloutName,
        run: RunName = None,
        limit: Annotated[int, Query(ge=1, le=32, description="Responses, spread evenly over all of them.")] = 8,
    ) -> SamePrompt:
        """The kept responses to the prompt of this rollout, from the first to the newest."""
        history = (await views.of(run)).history
        await history.responses.refresh()
        kept = history.responses.of_same_prompt(rollout)
        picked = [kept[place] for place in evenly(range(len(kept)), limit)]
        lines = await asyncio.to_thread(_lines_of, picked)
        return _side_by_side(history, lines, total=len(kept))

    return routes


def _is_between(score: float | None, low: float | None, high: float | None) -> bool:
    if low is None and high is None:
        return True
    return score is not None and (low is None or score >= low) and (high is None or score <= high)


def _listed(history: RunHistory, candidates: list[KeptResponse], limit: int) -> KeptResponses:
    shown = candidates[:limit]
    hits = [(one, Passage("", "", one.preview)) for one in shown]
    rest = shown[-1].time if len(shown) < len(candidates) else None
    return _answer(history, SearchResult(hits, len(shown), rest), total=len(candidates))


def _answer(history: RunHistory, result: SearchResult, *, total: int) -> KeptResponses:
    steps = _step_times(history)
    return KeptResponses(
        items=[
            KeptSummary(
                **_facts(history, kept, steps),
                excerpt=Excerpt(before=passage.before, found=passage.found, after=passage.after),
            )
            for kept, passage in result.hits
        ],
        num_searched=result.num_searched,
        total=total,
        older_than=result.older_than,
        note=" ".join([*_notes_on_search(result, total), *_notes_on_index(history.responses)]),
    )


def _side_by_side(history: RunHistory, lines: list[tuple[KeptResponse, Fields]], *, total: int) -> SamePrompt:
    steps = _step_times(history)
    newest = lines[-1][1] if lines else {}
    return SamePrompt(
        prompt=str(newest.get("prompt", ""))[:MAX_CHARACTERS],
        ground_truth=str(newest.get("ground_truth", ""))[:MAX_CHARACTERS],
        responses=[
            KeptText(
                **_facts(history, kept, steps),
                response=line["response"][:MAX_CHARACTERS],
                num_characters=len(line["response"]),
            )
            for kept, line in lines
        ],
        total=total,
        note=" ".join(_notes_on_index(history.responses)) or ("" if total else _not_among_the_kept(history)),
    )


def _lines_of(kept: list[KeptResponse]) -> list[tuple[KeptResponse, Fields]]:
    with TextReader() as texts:
        return [(one, line) for one in kept if (line := texts.line_of(one)) is not None]


def _facts(history: RunHistory, kept: KeptResponse, steps: list[tuple[float, int]]) -> Fields:
    return {
        "rollout": kept.rollout,
        "evaluation": kept.is_evaluation,
        "step": evaluated_step(kept.rollout) if kept.is_evaluation else _step_at(steps, kept.time),
        "status": kept.status,
        "score": kept.score,
        "length": kept.num_tokens,
        "time": kept.time,
        "is_listed": kept.rollout in history.journal.rollouts,
    }


def _step_times(history: RunHistory) -> list[tuple[float, int]]:
    """(time, number) of each training step."""
    pairs = zip(history.steps.values("time"), history.steps.values("step"), strict=True)
    return [(time, int(step)) for time, step in pairs if time is not None and step is not None]


def _step_at(steps: list[tuple[float, int]], time: float) -> int | None:
    """Training steps done at this time; None where their times are not known."""
    if not steps:
        return None
    place = bisect_right(steps, time, key=lambda one: one[0])
    return steps[place - 1][1] if place else max(0, steps[0][1] - 1)


def _notes_on_search(result: SearchResult, total: int) -> list[str]:
    if not result.is_out_of_time:
        return []
    return [
        f"The search stopped after {SEARCH_SECONDS:g} s: it has read the newest {result.num_searched:,} of {total:,} "
        "kept responses."
    ]


def _notes_on_index(index: ResponseIndex) -> list[str]:
    notes = []
    if index.num_unread_bytes:
        notes.append(
            f"{index.num_unread_bytes / MEGABYTE:,.1f} MB of kept responses are not read yet; each request reads on."
        )
    if index.num_forgotten:
        notes.append(f"The oldest {index.num_forgotten:,} kept responses are left out; they are in responses/.")
    if not len(index) and not index.num_unread_bytes:
        notes.append(NONE_KEPT)
    return notes


def _not_among_the_kept(history: RunHistory) -> str:
    share = history.setting("reward", "kept_prompts")
    return f"No response to this prompt is kept: it is not in the sample of reward.kept_prompts = {share}."
