"""The rules that look at the numbers of the training steps; each threshold says why it stands where it does.

What a metric means: docs/metrics.md.
"""

from collections.abc import Iterator, Sequence
from statistics import mean

from services.dashboard.live.situation import (
    LOOK_BACK,
    STREAK,
    Alert,
    Rule,
    Situation,
    bad_since,
    block_means,
    noise,
    step_of,
    total,
)

ENTROPY_FLOOR = 0.02
"""Nats. Below, 99.8 % of the probability lies on one token: nothing else is explored."""
NEAR_BEST = 0.95
"""A policy that is sure and earns at least this share of its best reward has learned; it has not collapsed."""
TOO_OLD_SHARE = 0.01
"""Of the tokens sampled. Below, the bound cuts the rare straggler, which is what it is for."""
REWARD_FALL = 0.25
"""Of the rise from the worst to the best ten steps: a loss of a quarter of what was ever learned."""
ACCURACY_STDERRS = 3.0
"""Standard errors of the difference: by chance once in a thousand evaluations."""
EXACT_FALL = 0.02
"""Of the exact accuracy, which has no sampling noise; but a policy that still learns wavers by a hundredth."""
CLIPPED_SHARE = 0.2
"""Of the tokens held by the clip; docs/metrics.md calls less than this healthy."""
FINISHED_SHARE = 0.05
"""Of the rows. The value model learns from finished responses only; with one row in twenty it starves."""
PROBABILITY_GAP = 0.01
"""Mean difference between the engine's and the learner's probability at lag 0; rounding stays a hundred times below."""
ENGINE_KL = 0.005
"""Nats of a generator's mean KL to the learner under the same weights: rounding in bfloat16 makes less than a tenth."""
ENGINE_CHECKS = 3
"""Of the last steps that could compare: each looks at hundreds of tokens, so a few say enough."""
UNCHANGED_SHARE = 1e-4
"""Of the weights changed in a step. In bfloat16 one in a hundred changes at the usual rates, in float32 nearly all."""
RUNAWAY_FALL = 0.1
"""Of what the reward had risen by: less than `REWARD_FALL`, since the lengths bear witness too."""
RUNAWAY_GROWTH = 1.5
"""Times the length at the best reward: responses that have lost their way double and more within ten steps."""
OPTIMISM = 0.4
"""Standard deviations of the scores by which values may exceed the reward. The quick start's exceed it by 0.37 in the
first ten steps, and lie below it from the twentieth on; where the value model is blind to failures it was 0.48."""
TOP_WEIGHT = 0.3
"""Of the gradient, for one percent of the tokens: twice the most that a healthy run of the quick start has."""


def _value_model(situation: Situation) -> Iterator[Alert]:
    since = bad_since(situation.steps, "critic/vf_explained_var", lambda value: value < 0)
    if since is not None:
        yield Alert(
            "warning",
            f"Explained variance below 0 since step {since}: the value model predicts worse than a constant.",
            since,
        )


def _entropy(situation: Situation) -> Iterator[Alert]:
    since = bad_since(situation.steps, "actor/entropy", lambda value: value < ENTROPY_FLOOR)
    if since is None:
        return
    blocks = block_means(situation.steps, "reward/mean")
    if blocks and blocks[-1][1] >= NEAR_BEST * max(value for _, value in blocks) > 0:
        return
    yield Alert("warning", f"The policy's entropy has collapsed since step {since}: it explores nothing.", since)


def _too_old(situation: Situation) -> Iterator[Alert]:
    old = total(situation.steps, "tokens/too_old")
    sampled = total(situation.steps, "tokens/window")
    if sampled and old / sampled > TOO_OLD_SHARE:
        share = f"{100 * old / sampled:.0f} %"
        since = bad_since(situation.steps, "tokens/too_old", lambda value: value > 0, at_least=1)
        yield Alert("warning", f"{share} of the tokens were masked as too old in the last {STREAK} steps.", since)


def _reward(situation: Situation) -> Iterator[Alert]:
    blocks = block_means(situation.steps, "reward/mean")
    if len(blocks) < 2:
        return
    (best_step, best), (_, now) = max(blocks, key=lambda block: block[1]), blocks[-1]
    # A noisy plateau has a small range of its own, of which any block may lose a quarter: the rise before counts.
    risen = best - min(value for step, value in blocks if step <= best_step)
    fall = best - now
    if risen > 0 and fall > REWARD_FALL * risen and fall > noise(situation.steps):
        text = f"The reward falls since step {best_step}: from {best:.3g} to {now:.3g}."
        yield Alert("warning", text, best_step)


def _runaway(situation: Situation) -> Iterator[Alert]:
    """Responses that do not end: they are longer, and earn less, than those of the best ten steps."""
    rewards = block_means(situation.steps, "reward/mean")
    lengths = dict(block_means(situation.steps, "response_length/mean"))
    if len(rewards) < 2:
        return
    (best_step, best), (step, now) = max(rewards, key=lambda block: block[1]), rewards[-1]
    risen = best - min(value for at, value in rewards if at <= best_step)
    has_fallen = best - now > max(RUNAWAY_FALL * risen, noise(situation.steps))
    before, after = lengths.get(best_step), lengths.get(step)
    if risen > 0 and has_fallen and before and after and after > RUNAWAY_GROWTH * before:
        text = (
            f"Responses grow while the reward falls since step {best_step}: from {before:.0f} to {after:.0f} tokens, "
            f"from {best:.3g} to {now:.3g}. Lower actor.lr; {_way_back(situation)}"
        )
        yield Alert("warning", text, best_step)


def _optimism(situation: Situation) -> Iterator[Alert]:
    names = ("critic/values/mean", "reward/mean", "reward/std")
    rows = zip(*(situation.steps.newest(name, STREAK) for name in names), strict=True)
    known = [row for row in rows if None not in row]
    if len(known) < STREAK:
        return
    value, reward, deviation = (mean(number or 0.0 for number in column) for column in zip(*known, strict=True))
    if deviation > 0 and value - reward > OPTIMISM * deviation:
        text = (
            f"The value model expects {value:.2f} where the reward is {reward:.2f}, over the last {STREAK} steps: "
            f"it does not see what fails. Lower actor.lr; {_way_back(situation)}"
        )
        yield Alert("warning", text, step_of(situation))


def _few_tokens(situation: Situation) -> Iterator[Alert]:
    since = bad_since(situation.steps, "actor/top_percent_weight", lambda value: value > TOP_WEIGHT)
    if since is not None:
        text = (
            f"One percent of the tokens carries more than {TOP_WEIGHT:.0%} of the gradient since step {since}: the "
            f"value model is far off there. Lower actor.lr; if the reward falls, {_way_back(situation)}"
        )
        yield Alert("warning", text, since)


def _way_back(situation: Situation) -> str:
    """To the best policy so far."""
    if situation.best_step is None:
        return f"no best checkpoint is known; tppo rollback {situation.run} --to VERSION takes any that is kept."
    version = situation.best_step
    return f"the best checkpoint is version {version}: tppo rollback {situation.run} --to {version}."


def _far_updates(situation: Situation) -> Iterator[Alert]:
    counts = [value for value in situation.steps.newest("actor/num_skipped_kl", STREAK) if value is not None]
    if len(counts) > 1 and counts[-1] > counts[0]:
        text = f"{counts[-1] - counts[0]:.0f} updates exceeded actor.max_kl in the last {STREAK} steps; lower actor.lr."
        yield Alert("notice", text, step_of(situation))


def _accuracy(situation: Situation) -> Iterator[Alert]:
    """By the exact accuracy, where there is one: it has no sampling noise."""
    names = ("eval/accuracy_exact", "eval/accuracy", "eval/accuracy_stderr", "step")
    rows = list(zip(*(situation.evaluations.newest(name, LOOK_BACK) for name in names), strict=True))
    if exact := [(value, 0.0, step) for value, _, _, step in rows if value is not None]:
        yield from _fallen("exact accuracy", exact, at_least=EXACT_FALL)
    else:
        sampled = [(value, stderr or 0.0, step) for _, value, stderr, step in rows if value is not None]
        yield from _fallen("accuracy", sampled, at_least=1e-9)


def _fallen(name: str, known: Sequence[tuple[float, float, float | None]], *, at_least: float) -> Iterator[Alert]:
    """(accuracy, standard error, step) of each evaluation."""
    if len(known) < 2:
        return
    best, now = max(known, key=lambda row: row[0]), known[-1]
    if best[0] - now[0] > max(ACCURACY_STDERRS * (best[1] ** 2 + now[1] ** 2) ** 0.5, at_least):
        step = int(best[2] or 0)
        yield Alert("warning", f"The {name} fell from {best[0]:.1%} at step {step} to {now[0]:.1%}.", step)


def _clipping(situation: Situation) -> Iterator[Alert]:
    since = bad_since(situation.steps, "actor/pg_clipfrac", lambda value: value > CLIPPED_SHARE)
    if since is not None:
        yield Alert(
            "warning", f"More than a fifth of the tokens are clipped since step {since}: actor.lr is high.", since
        )


def _starving(situation: Situation) -> Iterator[Alert]:
    since = bad_since(situation.steps, "response/finished_fraction", lambda value: value < FINISHED_SHARE)
    if since is not None:
        text = f"Hardly any response finishes since step {since}: the value model starves; try longer windows."
        yield Alert("warning", text, since)


def _skipped(situation: Situation) -> Iterator[Alert]:
    for who in ("actor", "critic"):
        counts = [value for value in situation.steps.newest(f"{who}/num_skipped_updates", STREAK) if value is not None]
        if len(counts) > 1 and counts[-1] > counts[0]:
            text = f"{who}: {counts[-1] - counts[0]:.0f} updates were skipped lately, their gradients were not finite."
            yield Alert("error", text, step_of(situation), subject=who)


def _disagreement(situation: Situation) -> Iterator[Alert]:
    """Only steps without lag count: with lag, the probabilities differ by design."""
    gaps = situation.steps.newest("training/rollout_probs_diff_mean", STREAK)
    lags = situation.steps.newest("policy_lag/max", STREAK)
    fresh = [gap for gap, lag in zip(gaps, lags, strict=True) if gap is not None and lag == 0]
    if len(fresh) == STREAK and min(fresh) > PROBABILITY_GAP:
        text = f"Engine and learner disagree: the same tokens' probabilities differ by {mean(fresh):.2g} on average."
        yield Alert("error", text, step_of(situation))


def _engines(situation: Situation) -> Iterator[Alert]:
    """Some steps say nothing: only windows that one version sampled whole are compared, in `streaming` now and then."""
    prefix = "training/engine_kl/mean/"
    for name in situation.steps.names:
        known = [value for value in situation.steps.newest(name, 5 * STREAK) if value is not None]
        if name.startswith(prefix) and len(known) >= ENGINE_CHECKS and min(known[-ENGINE_CHECKS:]) > ENGINE_KL:
            generator = name.removeprefix(prefix)
            now = mean(known[-ENGINE_CHECKS:])
            text = (
                f"{generator} disagrees with the learner under the same weights: KL {now:.2g} nats, where "
                f"rounding makes less than {ENGINE_KL}. Restart it; where that does not help, "
                "compute in float32, or, with a number as algorithm.importance_cap, mask what disagrees most: "
                "algorithm.importance_mode = 'mask'."
            )
            yield Alert("error", text, step_of(situation), subject=generator)


def _held(situation: Situation) -> Iterator[Alert]:
    held, sampled = (situation.steps.newest(name, 1) for name in ("tokens/held", "tokens/window"))
    if held and held[-1] and sampled and sampled[-1]:
        text = (
            f"{held[-1] / sampled[-1]:.0%} of the last step's tokens train nothing: their generator's KL to the "
            "learner is above algorithm.max_engine_kl."
        )
        yield Alert("error", text, step_of(situation))


def _unchanged(situation: Situation) -> Iterator[Alert]:
    for who in ("actor", "critic"):
        rates = [rate for rate in situation.steps.newest(f"{who}/lr", STREAK) if rate is not None]
        share = f"{who}/weights_changed_fraction"
        since = bad_since(situation.steps, share, lambda value: value < UNCHANGED_SHARE)
        if since is not None and rates and rates[-1] > 0:
            text = (
                f"{who}: a step changes less than {UNCHANGED_SHARE:.2%} of the weights since step {since}, at a "
                f"learning rate of {rates[-1]:.2g}: hardly anything is learned. Raise {who}.lr, unless {who}/grad_norm "
                "is 0."
            )
            yield Alert("warning", text, since, subject=who)


METRIC_RULES: tuple[Rule, ...] = (
    *(_value_model, _entropy, _too_old, _reward, _accuracy, _clipping, _starving, _skipped, _disagreement),
    *(_runaway, _optimism, _few_tokens, _far_updates, _engines, _held, _unchanged),
)
