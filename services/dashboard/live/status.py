"""The answer of `/api/v1/status`: its form, and how a view of a run is read."""

from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import Field, ValidationError

from services.dashboard.api_model import ApiModel
from services.dashboard.live.alerts import alerts_of_metrics, alerts_of_moment, worst_first
from services.dashboard.live.dead_letters import DeadLettersStatus, dead_letters_of
from services.dashboard.live.situation import Alert, Severity, Situation
from services.dashboard.live.view import View
from tppo.process.presence import LOADED, Presence
from tppo.run_folder.checkpoints import CheckpointFolder
from tppo.run_folder.ending import EndingKind, RunEnding
from tppo.streams import QueueDepth

RunState = Literal["starting", "running", "learner_gone", "redis_gone", "stopped", "gave_up", "finished"]


class ServiceStatus(ApiModel):
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
    """Its own report."""


class QueueStatus(ApiModel):
    """Requests not yet completed."""

    num_waiting: int
    num_leased: int
    """Held by a worker."""


class CommandStatus(ApiModel):
    """One of the last commands, and its outcome."""

    command_id: str
    action: str
    arguments: dict[str, Any] = Field(default_factory=dict)
    issued_at: float | None = None
    """Seconds since the epoch."""
    outcome: str = "pending"
    """pending, done or refused."""
    text: str = ""
    """A sentence about the outcome."""


class ControlStatus(ApiModel):
    """The commands to the run, and the settings in force."""

    paused: bool = False
    stop_after_step: int | None = None
    """The run stops after this step; null: at its end."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """The keys that may be changed while it runs, with the values in force."""
    commands: list[CommandStatus] = Field(default_factory=list)
    """The last 20."""


class AlertStatus(ApiModel):
    """One alert, in a sentence."""

    severity: Severity
    text: str
    since_step: int | None
    """The step since which it holds, where that is known."""


class Status(ApiModel):
    """A run at one moment."""

    run: str
    state: RunState
    """`redis_gone`: Redis does not answer, so this is from the folder and its last answer; `stopped`: ended before its
    last step, or not written to lately; `gave_up`: ended, with the cause in `ending_cause`."""
    ending_cause: str
    """Why it gave up, in a sentence; empty elsewhere."""
    step: int
    """Training steps done."""
    total_training_steps: int
    policy_version: int | None
    """Of the learner's weights; null where it is not known."""
    learner_gone_since: datetime | None
    """Its last heartbeat, when it has none for some seconds before the run's end."""
    known_since: datetime | None
    """The moment that this is true of, when the learner or Redis does not answer or the run is over; null: now."""
    waiting_for: str
    """What the next training step waits for, in words; empty when it waits for nothing."""
    has_control: bool
    """Whether this dashboard can send commands: the run is the live one and Redis answers."""
    control: ControlStatus | None
    """Null while no learner has reported."""
    alerts: list[AlertStatus]
    """The worst first."""
    metrics: dict[str, Any]
    """The newest training step's."""
    evaluation: dict[str, Any]
    """The newest evaluation's."""
    ledger: dict[str, Any]
    """Windows by state: issued = trained + in flight + parked + dropped."""
    queues: dict[str, QueueStatus]
    num_inbox_entries: int
    """Results kept since the last committed checkpoint."""
    dead_letters: DeadLettersStatus
    services: list[ServiceStatus]
    """Processes that announced themselves, those without a recent heartbeat too."""


def status_of(view: View) -> Status:
    """What the view means."""
    history, learner, state = view.history, view.learner, state_of(view)
    learner_status = learner.status if learner else {}
    return Status(
        run=history.name,
        state=state,
        ending_cause=view.ending.cause if view.ending and state == "gave_up" else "",
        step=history.step,
        total_training_steps=history.total_training_steps,
        policy_version=_integer(learner_status.get("policy_version")),
        learner_gone_since=_moment(learner.seen_at) if learner and state == "learner_gone" else None,
        known_since=None if state in ("starting", "running") else _moment(_last_report(view)),
        waiting_for=_waiting_for(view, state),
        has_control=view.is_live and not view.observation.error,
        control=_control(learner_status.get("control")),
        alerts=[
            AlertStatus(severity=one.severity, text=one.text, since_step=one.since_step) for one in alerts_of(view)
        ],
        metrics=history.steps.latest,
        evaluation=history.evaluations.latest,
        ledger=ledger_now(view),
        queues={
            "window_requests": _queue(view.observation.window_requests),
            "reward_requests": _queue(view.observation.reward_requests),
        },
        num_inbox_entries=view.observation.num_inbox_entries,
        dead_letters=dead_letters_of(view.observation),
        services=[service_status(view, presence) for presence in view.observation.presences],
    )


def state_of(view: View) -> RunState:
    """In one word."""
    total = view.history.total_training_steps
    is_done = 0 < total <= view.history.step
    if is_done and not view.is_learner_alive:
        return "finished"
    if view.ending is not None and not view.is_learner_alive:
        return state_after(view.ending)
    if not view.is_live:
        return "running" if view.is_written() else "stopped"
    if view.observation.error:
        return "redis_gone"
    if view.learner is None or view.is_learner_loading:
        return "starting"
    return "running" if view.is_learner_alive else "learner_gone"


def state_after(ending: RunEnding) -> RunState:
    """Of a run that has ended before its last step."""
    return "gave_up" if ending.kind is EndingKind.GAVE_UP else "stopped"


def alerts_of(view: View) -> list[Alert]:
    """The worst first."""
    situation = _situation(view, state_of(view))
    steps, evaluations = view.history.steps, view.history.evaluations
    key = (id(steps), steps.num_lines, steps.latest.get("step"), evaluations.num_lines)
    of_metrics = view.history.remembered("alerts", key, lambda: alerts_of_metrics(situation))
    return worst_first([*alerts_of_moment(situation), *of_metrics])


def service_status(view: View, presence: Presence) -> ServiceStatus:
    """One process, as of its last heartbeat."""
    return ServiceStatus(
        name=presence.name,
        kind=presence.kind,
        address=presence.address,
        is_alive=view.is_alive(presence),
        seconds_since_seen=round(max(0.0, view.now - presence.seen_at), 1),
        status=presence.status,
    )


def ledger_now(view: View) -> dict[str, Any]:
    """The learner's own count, else the one in the newest line of the metrics."""
    reported = view.learner.status.get("ledger") if view.learner else None
    if isinstance(reported, dict):
        return reported
    prefix = "ledger/"
    latest = view.history.steps.latest
    return {name.removeprefix(prefix): value for name, value in latest.items() if name.startswith(prefix)}


def _situation(view: View, state: RunState) -> Situation:
    learner, journal = view.learner, view.history.journal
    control = _control(learner.status.get("control")) if learner else None
    watchdog_seconds = view.history.setting("run", "watchdog_seconds")
    best = CheckpointFolder(view.history.paths.checkpoints).best()
    return Situation(
        steps=view.history.steps,
        evaluations=view.history.evaluations,
        run=view.history.name,
        best_step=None if best is None else best.step,
        is_running=view.is_live and state == "running",
        seconds_since_step=_seconds_since_step(view),
        watchdog_seconds=watchdog_seconds if isinstance(watchdog_seconds, int | float) else 60.0,
        waiting_for=_waiting_for(view, state),
        redis_error=view.observation.error,
        learner_gone_seconds=view.now - learner.seen_at if learner and state == "learner_gone" else None,
        num_parked=journal.by_state["parked"],
        parked_cause=journal.most_frequent_cause(),
        num_dead_letters=view.observation.dead_letters.num_kept + view.observation.dead_letters.num_dropped,
        dead_letter=next((f"{one.source}: {one.cause}" for one in view.observation.newest_dead_letters), ""),
        ledger_holds=ledger_now(view).get("holds") is not False,
        errors=_errors(view),
        digests={
            one.name: (_integer(one.status.get("policy_version")) or 0, str(one.status.get("digest") or ""))
            for one in view.presences("generation")
            if view.is_alive(one)
        },
        disproved=view.disproved_generators(),
        is_paused=control is not None and control.paused,
        offered_by_nobody=_offered_by_nobody(view),
    )


def _errors(view: View) -> dict[str, str]:
    """The last error of each process, and of the learner's transfers of weights to each generator."""
    errors = {one.name: str(one.status.get("last_error") or "") for one in view.observation.presences}
    transfers = view.learner.status.get("generators") if view.learner and view.is_learner_alive else None
    for name, known in transfers.items() if isinstance(transfers, dict) else ():
        if isinstance(known, dict) and known.get("error"):
            errors[f"weights for {name}"] = str(known["error"])
    return errors


def _offered_by_nobody(view: View) -> dict[str, str]:
    found: dict[str, list[str]] = {}
    for one in view.presences("reward"):
        attached = one.status.get("attached") if view.is_alive(one) else None
        names = attached.get("offered_by_nobody") if isinstance(attached, dict) else None
        for name in names if isinstance(names, list) else ():
            found.setdefault(str(name), []).append(one.address)
    return {name: " and ".join(addresses) for name, addresses in found.items()}


def _seconds_since_step(view: View) -> float | None:
    last = view.history.steps.latest.get("time")
    began = view.learner.started_at if view.learner else None
    since = max((moment for moment in (last, began) if isinstance(moment, int | float)), default=None)
    return None if since is None else view.now - since


def _waiting_for(view: View, state: RunState) -> str:
    if state == "redis_gone":
        return "Redis"
    if state == "learner_gone":
        return "the learner"
    if state == "starting":
        return f"the learner, which is loading {LOADED['learner']}"
    return str(view.learner.status.get("waiting_for", "")) if view.learner and view.is_learner_alive else ""


def _last_report(view: View) -> float | None:
    heartbeats = [presence.seen_at for presence in view.presences("learner")]
    return max([*heartbeats, *filter(None, [view.history.last_time])], default=None)


def _control(reported: Any) -> ControlStatus | None:
    """As the learner reports it; one of another version may report something else."""
    try:
        return None if reported is None else ControlStatus.model_validate(reported)
    except ValidationError:
        return None


def _moment(seconds: float | None) -> datetime | None:
    try:
        return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, ValueError, OSError):  # a year that the calendar does not have
        return None


def _queue(depth: QueueDepth) -> QueueStatus:
    return QueueStatus(num_waiting=depth.num_waiting, num_leased=depth.num_leased)


def _integer(value: Any) -> int | None:
    return value if isinstance(value, int) else None
