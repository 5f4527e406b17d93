"""/generators, /reward-functions: who samples and who scores."""

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter

from services.dashboard.api.parameters import RunName
from services.dashboard.api.problems import problems
from services.dashboard.api_model import ApiModel, Page
from services.dashboard.history.journal import JournalIndex
from services.dashboard.live.status import ServiceStatus, service_status
from services.dashboard.live.view import View, Views

MAX_SCORES = 20_000
"""Newest rollouts whose scores are counted."""


class GeneratorAnswer(ApiModel):
    """One generator: its own report, what the learner knows of it, and its work in the journal."""

    name: str
    process: ServiceStatus | None
    """As of its last heartbeat; null where Redis has none."""
    policy_version: int | None
    """Of the weights that it serves."""
    num_slots: int | None
    num_active: int | None
    """Responses that it extends now."""
    occupancy: float | None
    """Share of its slots in use, over all decode steps so far."""
    tokens_per_second: float | None
    """Over its last ten heartbeats."""
    num_held: int | None
    """Requests under its leases, running or waiting."""
    kv_cache_use: float | None
    """Share of the KV cache's room that the running responses take; null where its engine does not know."""
    prefill_per_token: float | None
    """Tokens prefilled for each token that it sampled."""
    shared_prefix_share: float | None
    """Of the prefixes' tokens so far, the share whose KV cache was taken over from a sibling."""
    num_cut: int | None
    """Windows that it handed over."""
    probe_difference: float | None
    """The largest log-prob difference of its weights' proof; null where none was made."""
    weights: dict[str, Any]
    """What the learner knows of the transfers to it."""


class RewardFunctionAnswer(ApiModel):
    """One reward function, over the newest rollouts of the journal."""

    function: str
    num_scored: int
    num_failed: int
    """Attempts without a score: abstained, timed out or failed."""
    mean_score: float | None
    mean_seconds: float | None
    max_seconds: float | None
    last_error: str


class RewardFunctions(Page[RewardFunctionAnswer]):
    """The functions, which data sources they score, and the processes that run them."""

    configured: dict[str, str]
    """Data source -> function, as in [reward]."""
    default_function: str
    services: list[ServiceStatus]


@dataclass
class _Tally:
    """Scores of one function."""

    scores: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    num_failed: int = 0
    last_error: tuple[float, str] = (0.0, "")


def router(views: Views) -> APIRouter:
    """The addresses."""
    routes = APIRouter(tags=["services"], responses=problems(not_found="no such run"))

    @routes.get("/generators")
    async def generators(run: RunName = None) -> Page[GeneratorAnswer]:
        """Every generator, those of the journal too that are gone."""
        view = await views.of(run)
        names = {one.name for one in view.presences("generation")} | set(view.history.journal.slots)
        items = [_generator(view, name) for name in sorted(names)]
        return Page[GeneratorAnswer](items=items, total=len(items))

    @routes.get("/reward-functions")
    async def reward_functions(run: RunName = None) -> RewardFunctions:
        """Each function with its scores, failures and times."""
        view = await views.of(run)
        tallies = _tallies(view.history.journal)
        configured, default = (
            view.history.setting("reward", "functions"),
            view.history.setting("reward", "default_function"),
        )
        items = [_function(name, tallies[name]) for name in sorted(tallies)]
        return RewardFunctions(
            items=items,
            total=len(items),
            configured={str(key): str(value) for key, value in (configured or {}).items()},
            default_function=str(default or ""),
            services=[service_status(view, one) for one in view.presences("reward")],
        )

    return routes


def _generator(view: View, name: str) -> GeneratorAnswer:
    presence = next((one for one in view.presences("generation") if one.name == name), None)
    status = presence.status if presence else {}
    steps, active = _count(status, "num_slot_steps"), _count(status, "num_active_slot_steps")
    num_slots = _count(status, "num_slots") or view.history.journal.slots.get(name)
    if steps is None and num_slots:
        decode_steps = _count(status, "num_decode_steps")
        steps = None if decode_steps is None else decode_steps * num_slots
    known = view.learner.status.get("generators") if view.learner else None
    weights = known.get(name) if isinstance(known, dict) else None
    return GeneratorAnswer(
        name=name,
        process=service_status(view, presence) if presence else None,
        policy_version=_count(status, "policy_version"),
        num_slots=num_slots,
        num_active=_count(status, "num_active"),
        occupancy=active / steps if active is not None and steps else None,
        tokens_per_second=_number(status, "tokens_per_second"),
        num_held=_count(status, "num_held"),
        kv_cache_use=_number(status, "kv_cache_use"),
        prefill_per_token=_ratio(_count(status, "num_prefill_tokens"), _count(status, "num_tokens_generated")),
        shared_prefix_share=_shared_prefix_share(status),
        num_cut=_count(status, "num_cut"),
        probe_difference=_number(status, "probe_difference"),
        weights=weights if isinstance(weights, dict) else {},
    )


def _shared_prefix_share(status: dict[str, Any]) -> float | None:
    computed, shared = _count(status, "num_prefill_tokens"), _count(status, "num_shared_prefill_tokens")
    return None if computed is None or shared is None else _ratio(shared, computed + shared)


def _ratio(numerator: int | None, denominator: int | None) -> float | None:
    return None if numerator is None or not denominator else numerator / denominator


def _number(status: dict[str, Any], name: str) -> float | None:
    value = status.get(name)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _tallies(journal: JournalIndex) -> dict[str, _Tally]:
    tallies: defaultdict[str, _Tally] = defaultdict(_Tally)
    for name in list(journal.rollouts)[-MAX_SCORES:]:
        for score in journal.rollouts[name].scores.values():
            tally = tallies[score.function]
            if score.status == "SCORED" and score.score is not None:
                tally.scores.append(score.score)
            else:
                tally.num_failed += 1
                tally.last_error = max(tally.last_error, (score.time or 0.0, score.error))
            if score.seconds is not None:
                tally.seconds.append(score.seconds)
    return tallies


def _function(name: str, tally: _Tally) -> RewardFunctionAnswer:
    return RewardFunctionAnswer(
        function=name,
        num_scored=len(tally.scores),
        num_failed=tally.num_failed,
        mean_score=_mean(tally.scores),
        mean_seconds=_mean(tally.seconds),
        max_seconds=max(tally.seconds, default=None),
        last_error=tally.last_error[1],
    )


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _count(status: dict[str, Any], name: str) -> int | None:
    value = status.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) else None
