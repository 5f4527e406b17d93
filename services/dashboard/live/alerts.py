"""Alerts in sentences: a pure function of the metrics and of the processes' heartbeats.

Each rule looks at the last few steps, because one step's number is noise; each threshold says why it stands where it
does. What a metric means: docs/metrics.md.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from statistics import mean, median
from typing import Literal

from services.dashboard.history.columns import Columns

Severity = Literal["error", "warning", "notice"]

LOOK_BACK = 2_000
"""Steps that the rules look at: more would cost time, and say nothing about today."""
STREAK = 10
"""Steps in a row before a bad number counts: with 32 rows a step, one step's number is mostly noise."""
ENTROPY_FLOOR = 0.02
"""Nats. Below, 99.8 % of the probability lies on one token: nothing else is explored."""
NEAR_BEST = 0.95
"""A policy that is sure and earns at least this share of its best reward has learned; it has not collapsed."""
TOO_OLD_SHARE = 0.01
"""Of the tokens sampled. Below, the bound cuts the rare straggler, which is what it is for."""
REWARD_FALL = 0.25
"""Of the range between the worst and the best ten steps: a loss of a quarter of what was ever learned."""
ACCURACY_STDERRS = 3.0
"""Standard errors of the difference: by chance once in a thousand evaluations."""
CLIPPED_SHARE = 0.2
"""Of the tokens held by the clip; docs/metrics.md calls less than this healthy."""
FINISHED_SHARE = 0.05
"""Of the rows. The value model learns from finished responses only; with one row in twenty it starves."""
PROBABILITY_GAP = 0.01
"""Mean difference between the engine's and the learner's probability at lag 0; rounding stays a hundred times below."""
STALL_FACTOR = 5.0
"""Times the usual step: evaluation and a checkpoint fit into it."""


@dataclass(frozen=True)
class Alert:
    """A sentence about something that an operator should look at."""

    severity: Severity
    text: str
    since_step: int | None = None


@dataclass(frozen=True, kw_only=True)
class Situation:
    """What is known besides the metrics."""

    steps: Columns
    evaluations: Columns
    is_running: bool = False
    """The learner is there and its run has not ended."""
    seconds_since_step: float | None = None
    """Or since it began, before the first step."""
    watchdog_seconds: float = 60.0
    waiting_for: str = ""
    redis_error: str = ""
    learner_gone_seconds: float | None = None
    num_parked: int = 0
    parked_cause: str = ""
    """The most frequent one."""
    ledger_holds: bool = True
    errors: dict[str, str] = field(default_factory=dict)
    """Process -> its last error."""
    digests: dict[str, tuple[int, str]] = field(default_factory=dict)
    """Generator -> the version that it serves and the digest of what it loaded."""
    is_paused: bool = False


def alerts_of_moment(situation: Situation) -> list[Alert]:
    """What may change at any moment."""
    return [alert for rule in MOMENT_RULES for alert in rule(situation)]


def alerts_of_metrics(situation: Situation) -> list[Alert]:
    """What changes with a line of the metrics only."""
    return [alert for rule in METRIC_RULES for alert in rule(situation)]


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
        yield Alert("warning", f"No training step for {duration(seconds)}{waiting}.", _step(situation))


def _paused(situation: Situation) -> Iterator[Alert]:
    if situation.is_paused:
        yield Alert("notice", "Paused by operator.", _step(situation))


def _ledger(situation: Situation) -> Iterator[Alert]:
    if not situation.ledger_holds:
        yield Alert("error", "Windows are unaccounted for: issued is not trained + in flight + parked + dropped.")


def _parked(situation: Situation) -> Iterator[Alert]:
    if situation.num_parked:
        cause = f"; most often: {situation.parked_cause}" if situation.parked_cause else ""
        plural = "s are" if situation.num_parked > 1 else " is"
        yield Alert("warning", f"{situation.num_parked} rollout{plural} parked{cause}.")


def _errors(situation: Situation) -> Iterator[Alert]:
    for name, text in situation.errors.items():
        if text:
            yield Alert("warning", f"{name}: {text}")


def _digests(situation: Situation) -> Iterator[Alert]:
    """Generators that serve the same version must have loaded the same bytes."""
    by_version: dict[int, dict[str, str]] = {}
    for name, (version, digest) in situation.digests.items():
        if digest:
            by_version.setdefault(version, {})[name] = digest
    for version, of_names in by_version.items():
        if len(set(of_names.values())) > 1:
            names = ", ".join(sorted(of_names))
            yield Alert("error", f"{names} serve version {version} with different weights (their digests differ).")


def _value_model(situation: Situation) -> Iterator[Alert]:
    since = _since(situation.steps, "critic/vf_explained_var", lambda value: value < 0)
    if since is not None:
        yield Alert(
            "warning",
            f"Explained variance below 0 since step {since}: the value model predicts worse than a constant.",
            since,
        )


def _entropy(situation: Situation) -> Iterator[Alert]:
    since = _since(situation.steps, "actor/entropy", lambda value: value < ENTROPY_FLOOR)
    if since is None:
        return
    blocks = _blocks(situation.steps, "reward/mean")
    if blocks and blocks[-1][1] >= NEAR_BEST * max(value for _, value in blocks) > 0:
        return
    yield Alert("warning", f"The policy's entropy has collapsed since step {since}: it explores nothing.", since)


def _too_old(situation: Situation) -> Iterator[Alert]:
    old = _sum(situation.steps, "tokens/too_old")
    sampled = _sum(situation.steps, "tokens/window")
    if sampled and old / sampled > TOO_OLD_SHARE:
        share = f"{100 * old / sampled:.0f} %"
        since = _since(situation.steps, "tokens/too_old", lambda value: value > 0, at_least=1)
        yield Alert("warning", f"{share} of the tokens were masked as too old in the last {STREAK} steps.", since)


def _reward(situation: Situation) -> Iterator[Alert]:
    blocks = _blocks(situation.steps, "reward/mean")
    if len(blocks) < 2:
        return
    (best_step, best), (_, now) = max(blocks, key=lambda block: block[1]), blocks[-1]
    worst = min(value for _, value in blocks)
    # A noisy plateau has a small range of its own, of which any block may lose a quarter: the worst has to lie before.
    has_risen = worst < best and min(blocks, key=lambda block: block[1])[0] <= best_step
    fall = best - now
    if has_risen and fall > REWARD_FALL * (best - worst) and fall > _noise(situation.steps):
        text = f"The reward falls since step {best_step}: from {best:.3g} to {now:.3g}."
        yield Alert("warning", text, best_step)


def _accuracy(situation: Situation) -> Iterator[Alert]:
    evaluations = situation.evaluations
    names = ("eval/accuracy", "eval/accuracy_stderr", "step")
    rows = zip(*(evaluations.newest(name, LOOK_BACK) for name in names), strict=True)
    known = [(accuracy, stderr or 0.0, step) for accuracy, stderr, step in rows if accuracy is not None]
    if len(known) < 2:
        return
    best, now = max(known, key=lambda row: row[0]), known[-1]
    if best[0] - now[0] > max(ACCURACY_STDERRS * (best[1] ** 2 + now[1] ** 2) ** 0.5, 1e-9):
        step = int(best[2] or 0)
        yield Alert("warning", f"The accuracy fell from {best[0]:.1%} at step {step} to {now[0]:.1%}.", step)


def _clipping(situation: Situation) -> Iterator[Alert]:
    since = _since(situation.steps, "actor/pg_clipfrac", lambda value: value > CLIPPED_SHARE)
    if since is not None:
        yield Alert(
            "warning", f"More than a fifth of the tokens are clipped since step {since}: actor.lr is high.", since
        )


def _starving(situation: Situation) -> Iterator[Alert]:
    since = _since(situation.steps, "response/finished_fraction", lambda value: value < FINISHED_SHARE)
    if since is not None:
        text = f"Hardly any response finishes since step {since}: the value model starves; try longer windows."
        yield Alert("warning", text, since)


def _skipped(situation: Situation) -> Iterator[Alert]:
    for who in ("actor", "critic"):
        counts = [value for value in situation.steps.newest(f"{who}/num_skipped_updates", STREAK) if value is not None]
        if len(counts) > 1 and counts[-1] > counts[0]:
            text = f"{who}: {counts[-1] - counts[0]:.0f} updates were skipped lately, their gradients were not finite."
            yield Alert("error", text, _step(situation))


def _disagreement(situation: Situation) -> Iterator[Alert]:
    """Only steps without lag count: with lag, the probabilities differ by design."""
    gaps = situation.steps.newest("training/rollout_probs_diff_mean", STREAK)
    lags = situation.steps.newest("policy_lag/max", STREAK)
    fresh = [gap for gap, lag in zip(gaps, lags, strict=True) if gap is not None and lag == 0]
    if len(fresh) == STREAK and min(fresh) > PROBABILITY_GAP:
        text = f"Engine and learner disagree: the same tokens' probabilities differ by {mean(fresh):.2g} on average."
        yield Alert("error", text, _step(situation))


Rule = Callable[[Situation], Iterable[Alert]]
MOMENT_RULES: tuple[Rule, ...] = (_redis, _learner, _no_step, _paused, _ledger, _parked, _errors, _digests)
METRIC_RULES: tuple[Rule, ...] = (
    *(_value_model, _entropy, _too_old, _reward, _accuracy, _clipping, _starving, _skipped, _disagreement),
)


def duration(seconds: float) -> str:
    """For a sentence."""
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def _step(situation: Situation) -> int | None:
    step = situation.steps.latest.get("step")
    return step if isinstance(step, int) else None


def _since(steps: Columns, name: str, is_bad: Callable[[float], bool], *, at_least: int = STREAK) -> int | None:
    """The first step of the streak of bad numbers that still goes on; steps without the number are passed over."""
    first, length = None, 0
    pairs = zip(steps.newest("step", LOOK_BACK), steps.newest(name, LOOK_BACK), strict=True)
    for step, value in reversed([(step, value) for step, value in pairs if value is not None and step is not None]):
        if not is_bad(value):
            break
        first, length = int(step), length + 1
    return first if length >= at_least else None


def _sum(steps: Columns, name: str) -> float:
    return sum(value for value in steps.newest(name, STREAK) if value is not None)


def _blocks(steps: Columns, name: str) -> list[tuple[int, float]]:
    """(last step, mean) of each full block of `STREAK` steps, counted back from the newest."""
    pairs = zip(steps.newest("step", LOOK_BACK), steps.newest(name, LOOK_BACK), strict=True)
    known = [(int(step), value) for step, value in pairs if value is not None and step is not None]
    ends = range(len(known), STREAK - 1, -STREAK)
    blocks = [(known[end - 1][0], mean(value for _, value in known[end - STREAK : end])) for end in ends]
    return blocks[::-1]


def _noise(steps: Columns) -> float:
    """Two standard deviations of the newest block's mean, from its steps' own differences."""
    values = [value for value in steps.newest("reward/mean", STREAK) if value is not None]
    if len(values) < 2:
        return 0.0
    middle = mean(values)
    variance = sum((value - middle) ** 2 for value in values) / (len(values) - 1)
    return float(2 * (variance / len(values)) ** 0.5)
