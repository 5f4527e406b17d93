"""Alerts in sentences: a pure function of the metrics and of the processes' heartbeats.

The rules about metrics are in `learning_alerts.py`.
"""

from collections.abc import Iterator, Sequence
from statistics import median

from services.dashboard.live.learning_alerts import METRIC_RULES
from services.dashboard.live.situation import STREAK, Alert, Rule, Severity, Situation, alerts_by, step_of

STALL_FACTOR = 5.0
"""Times the usual step: evaluation and a checkpoint fit into it."""


def alerts_of_moment(situation: Situation) -> list[Alert]:
    """What may change at any moment."""
    return alerts_by(MOMENT_RULES, situation)


def alerts_of_metrics(situation: Situation) -> list[Alert]:
    """What changes with a line of the metrics only."""
    return alerts_by(METRIC_RULES, situation)


def worst_first(found: list[Alert]) -> list[Alert]:
    """By severity."""
    order: Sequence[Severity] = ("error", "warning", "notice")
    return sorted(found, key=lambda alert: order.index(alert.severity))


def _redis(situation: Situation) -> Iterator[Alert]:
    if situation.redis_error:
        yield Alert("error", f"Redis does not answer: {situation.redis_error}.")


def _learner(situation: Situation) -> Iterator[Alert]:
    if situation.learner_gone_seconds is not None:
        yield Alert("error", f"No heartbeat from learner for {duration(situation.learner_gone_seconds)}.")


def _no_step(situation: Situation) -> Iterator[Alert]:
    seconds = situation.seconds_since_step
    if not situation.is_running or situation.is_paused or seconds is None:
        return
    usual = [value for value in situation.steps.newest("timing_s/step", STREAK) if value is not None]
    deadline = max(situation.watchdog_seconds, STALL_FACTOR * median(usual) if usual else 0.0)
    if seconds > deadline:
        waiting = f"; waiting for {situation.waiting_for}" if situation.waiting_for else ""
        yield Alert("warning", f"No training step for {duration(seconds)}{waiting}.", step_of(situation))


def _paused(situation: Situation) -> Iterator[Alert]:
    if situation.is_paused:
        yield Alert("notice", "Paused by operator.", step_of(situation))


def _ledger(situation: Situation) -> Iterator[Alert]:
    if not situation.ledger_holds:
        yield Alert("error", "Windows are unaccounted for: issued is not trained + in flight + parked + dropped.")


def _parked(situation: Situation) -> Iterator[Alert]:
    if situation.num_parked:
        cause = f"; most often: {situation.parked_cause}" if situation.parked_cause else ""
        plural = "s are" if situation.num_parked > 1 else " is"
        yield Alert("warning", f"{situation.num_parked} rollout{plural} parked{cause}.")


def _dead_letters(situation: Situation) -> Iterator[Alert]:
    if situation.num_dead_letters:
        number = situation.num_dead_letters
        what = "1 request or record was" if number == 1 else f"{number} requests or records were"
        yield Alert("warning", f"{what} rejected; the newest of {situation.dead_letter}.")


def _errors(situation: Situation) -> Iterator[Alert]:
    for name, text in situation.errors.items():
        if text:
            yield Alert("warning", f"{name}: {text}", subject=name)


def _disproved(situation: Situation) -> Iterator[Alert]:
    for name, (is_alive, text) in situation.disproved.items():
        state = "serves nothing, and is sent the weights again" if is_alive else "is out of the run"
        yield Alert("error", f"{name} {state}: {text}.", subject=name)


def _nobody(situation: Situation) -> Iterator[Alert]:
    for function, address in situation.offered_by_nobody.items():
        text = f"Responses wait for grpc:{function}, which no process offers; one may attach at {address}."
        yield Alert("warning", text, subject=function)


def _digests(situation: Situation) -> Iterator[Alert]:
    """Generators that serve the same version must have loaded the same bytes."""
    by_version: dict[int, dict[str, str]] = {}
    for name, (version, digest) in situation.digests.items():
        if digest:
            by_version.setdefault(version, {})[name] = digest
    for version, of_names in by_version.items():
        if len(set(of_names.values())) > 1:
            names = ", ".join(sorted(of_names))
            yield Alert(
                "error",
                f"{names} serve version {version} with different weights (their digests differ).",
                subject=names,
            )


def duration(seconds: float) -> str:
    """For a sentence."""
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


MOMENT_RULES: tuple[Rule, ...] = (
    _redis,
    _learner,
    _no_step,
    _paused,
    _ledger,
    _parked,
    _dead_letters,
    _errors,
    _digests,
    _disproved,
    _nobody,
)
