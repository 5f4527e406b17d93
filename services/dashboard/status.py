"""The answer of `/api/v1/status`: its form, and how an observation is read."""

from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from services.dashboard.source import Observation
from tppo.presence import GONE_AFTER_SECONDS, Presence
from tppo.streams import QueueDepth

State = Literal["starting", "running", "learner_gone", "finished"]


class Answer(BaseModel):
    """Part of the answer; the text below each field is its description in the OpenAPI document."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)


class ServiceStatus(Answer):
    """One process."""

    name: str
    kind: str
    """generation, reward, learner or dashboard."""
    address: str
    """host:port of its gRPC server; empty when it has none."""
    is_alive: bool
    """Whether its last heartbeat is recent."""
    seconds_since_seen: float
    status: dict[str, Any]
    """What it tells about itself."""


class QueueStatus(Answer):
    """Requests not yet completed."""

    num_waiting: int
    num_leased: int
    """Held by a worker."""


class Status(Answer):
    """A run at one moment."""

    run: str
    state: State
    step: int
    """Training steps done."""
    total_training_steps: int
    policy_version: int | None
    """Of the learner's weights; null while nobody knows."""
    learner_gone_since: datetime | None
    """Its last heartbeat, when it has fallen silent before the run's end."""
    metrics: dict[str, Any]
    """The newest training step's."""
    evaluation: dict[str, Any]
    """The newest evaluation's."""
    ledger: dict[str, Any]
    """Rollouts by state: issued = trained + in flight + parked + dropped."""
    queues: dict[str, QueueStatus]
    num_inbox_entries: int
    """Results kept since the last committed checkpoint."""
    services: list[ServiceStatus]


def status_of(observation: Observation, *, run: str, total_training_steps: int) -> Status:
    """What the observation means."""
    metrics = _newest(observation, "step")
    learner = _learner(observation)
    is_learner_alive = learner is not None and _is_alive(learner, observation.now)
    step = int(metrics.get("step", 0))
    is_finished = step >= total_training_steps and not is_learner_alive
    has_lost_learner = learner is not None and not is_learner_alive and not is_finished
    learner_status = learner.status if learner else {}
    return Status(
        run=run,
        state=_state(is_learner_alive=is_learner_alive, is_finished=is_finished, has_lost_learner=has_lost_learner),
        step=step,
        total_training_steps=total_training_steps,
        policy_version=learner_status.get("policy_version"),
        learner_gone_since=datetime.fromtimestamp(learner.seen_at, UTC) if learner and has_lost_learner else None,
        metrics=metrics,
        evaluation=_newest(observation, "evaluation"),
        ledger=learner_status.get("ledger", {}),
        queues={
            "window_requests": _queue(observation.window_requests),
            "reward_requests": _queue(observation.reward_requests),
        },
        num_inbox_entries=observation.num_inbox_entries,
        services=[_service(presence, observation.now) for presence in observation.presences],
    )


def _state(*, is_learner_alive: bool, is_finished: bool, has_lost_learner: bool) -> State:
    if is_finished:
        return "finished"
    if has_lost_learner:
        return "learner_gone"
    return "running" if is_learner_alive else "starting"


def _learner(observation: Observation) -> Presence | None:
    """The learner that was seen last."""
    learners = [presence for presence in observation.presences if presence.kind == "learner"]
    return max(learners, key=lambda presence: presence.seen_at, default=None)


def _service(presence: Presence, now: float) -> ServiceStatus:
    return ServiceStatus(
        name=presence.name,
        kind=presence.kind,
        address=presence.address,
        is_alive=_is_alive(presence, now),
        seconds_since_seen=round(max(0.0, now - presence.seen_at), 1),
        status=presence.status,
    )


def _queue(depth: QueueDepth) -> QueueStatus:
    return QueueStatus(num_waiting=depth.num_waiting, num_leased=depth.num_leased)


def _newest(observation: Observation, kind: str) -> dict[str, Any]:
    matching = (line for line in reversed(observation.metric_lines) if line.get("kind") == kind)
    return next(matching, {})


def _is_alive(presence: Presence, now: float) -> bool:
    return now - presence.seen_at <= GONE_AFTER_SECONDS
