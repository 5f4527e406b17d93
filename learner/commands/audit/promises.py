"""The promises of a run, each held against the evidence: a question, the answer, and whether the promise was kept.

Beside them, what has not trained yet.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyarrow
import pyarrow.compute as pc

from learner.commands.audit.evidence import Evidence

TERMS = ("trained", "in_flight", "parked", "dropped")
MODE_LAG = {"lockstep": 0, "overlapped": 1}  # steps; streaming has no bound of its own

REUSING = {"geppo"}  # systems that train on a window in more than one step
UNTRAINED = {"requested": "requested", "scoring": "waiting for a score", "ready": "ready", "parked": "parked"}


@dataclass(frozen=True, slots=True)
class Finding:
    """The audit's answer to one question."""

    question: str
    is_kept: bool
    answer: str


@dataclass(frozen=True, slots=True)
class Untrained:
    """Some of what has not trained."""

    what: str
    windows: int | None
    tokens: int


class PrefixAge(NamedTuple):
    """Steps from the oldest token before a window to the weights that the window trained."""

    rollout_id: str
    window_index: int
    step: int
    steps: int


def findings(evidence: Evidence) -> list[Finding]:
    """Every promise, in the order of docs/traces.md."""
    return [promise(evidence) for promise in PROMISES]


def is_any_token_trained_twice(evidence: Evidence) -> Finding:
    """The policy trains each token at most once."""
    question = "Was any token trained twice by the policy?"
    trained = evidence.tokens.filter(pc.field("policy_mask"))
    uses = _counted(trained, ["rollout_id", "position"]).filter(pc.field("count") > 1)
    if not len(uses):
        return Finding(question, True, f"no: {len(trained):,} tokens, each once{_caveat(evidence)}")
    first = uses.slice(0, 1).to_pylist()[0]
    steps = _steps_of(trained, first["rollout_id"], position=first["position"])
    where = f"position {first['position']} of {first['rollout_id']} in steps {steps}"
    return Finding(question, False, f"{len(uses):,} tokens, such as {where}")


def is_any_window_taken_twice(evidence: Evidence) -> Finding:
    """A window makes a row of one step only."""
    question = "Was any window part of two steps?"
    windows = _counted(evidence.tokens.filter(pc.field("in_window")), ["rollout_id", "window_index", "step"])
    steps = _counted(windows, ["rollout_id", "window_index"])
    repeated = steps.filter(pc.field("count") > 1)
    if not len(repeated):
        return Finding(question, True, f"no: {len(steps):,} windows")
    first = repeated.slice(0, 1).to_pylist()[0]
    return Finding(question, False, f"{len(repeated):,}, such as {first['window_index']} of {first['rollout_id']}")


def is_any_value_trained_twice(evidence: Evidence) -> Finding:
    """A finished response trains the value model in one step, with all of its tokens that the policy sampled."""
    question = "Was any response trained twice, or in part, by the value model?"
    trained = evidence.tokens.filter(pc.field("value_mask"))
    counted = evidence.tokens.filter(pc.field("value_mask") | ~pc.field("is_sampled"))
    by_step = counted.group_by(["rollout_id", "step"]).aggregate(
        [("position", "count"), ("position", "count_distinct"), ("position", "max"), ("value_mask", "any")]
    )
    by_step = by_step.filter(pc.field("value_mask_any"))
    length = pc.add(by_step["position_max"], 1)
    is_whole = pc.and_(
        pc.equal(by_step["position_count"], length), pc.equal(by_step["position_count_distinct"], length)
    )
    in_part = by_step.filter(pc.invert(is_whole))["rollout_id"].to_pylist()
    uses = _counted(by_step, ["rollout_id"])
    twice = uses.filter(pc.field("count") > 1)["rollout_id"].to_pylist()
    if not in_part and not twice:
        return Finding(question, True, f"no: {len(uses):,} responses, {len(trained):,} tokens")
    found = [f"{len(ids):,} {how}, such as {ids[0]}" for ids, how in ((twice, "twice"), (in_part, "in part")) if ids]
    return Finding(question, False, "; ".join(found))


def is_any_token_too_old(evidence: Evidence) -> Finding:
    """Tokens older than the bound are masked, and none is newer than the weights that it trains."""
    question = "Was any trained token older than the bound?"
    lags = evidence.tokens.filter(pc.field("policy_mask")).group_by("step")
    by_step = lags.aggregate([("lag", "max"), ("lag", "min")]).to_pylist()
    bounds = {step: min(head.max_token_lag, MODE_LAG.get(head.mode, head.max_token_lag))
              for step, head in evidence.headers.items()}  # fmt: skip
    broken = [line for line in by_step if line["lag_max"] > bounds[line["step"]] or line["lag_min"] < 0]
    if broken:
        worst = max(broken, key=lambda line: line["lag_max"])
        bound = bounds[worst["step"]]
        return Finding(question, False, f"in step {worst['step']} by {worst['lag_max']} steps; the bound is {bound}")
    oldest = max((line["lag_max"] for line in by_step), default=0)
    return Finding(question, True, f"no: {oldest} steps at most; the bound is {max(bounds.values(), default=0)}")


def is_any_prefix_too_old(evidence: Evidence) -> Finding:
    """In lockstep a response goes on in the very next step, so that its prefix is as old as it has windows.

    With full windows that is ceil(L / W) - 1 steps at most. What was parked has waited for its operator.
    """
    question = "Was any prefix older than its windows, in lockstep?"
    ages = [age for age in _prefix_ages(evidence) if age.rollout_id not in evidence.parked]
    bounded = [age for age in ages if evidence.headers[age.step].mode == "lockstep"]
    broken = [age for age in bounded if age.steps > age.window_index]
    if broken:
        worst = max(broken, key=lambda age: age.steps - age.window_index)
        where = f"window {worst.window_index} of {worst.rollout_id} in step {worst.step}"
        return Finding(question, False, f"{where}: its prefix is {worst.steps} steps old; the bound is its index")
    oldest = max((age.steps for age in ages), default=0)
    not_bounded = "" if len(bounded) == len(ages) else "; no bound in the other modes"
    return Finding(question, True, f"no: {oldest} steps at most{not_bounded}")


def is_any_response_lost(evidence: Evidence) -> Finding:
    """A response that was trained on either trained the value model in the end, or is in the ledger still."""
    question = "Was any response dropped before it trained the value model?"
    is_settled = pc.field("step") <= evidence.ledger.step
    started = set(evidence.tokens.filter(is_settled)["rollout_id"].unique().to_pylist())
    ended = set(evidence.tokens.filter(pc.field("value_mask"))["rollout_id"].unique().to_pylist())
    alive = {rollout["rollout_id"] for rollout in evidence.ledger.rollouts}
    lost = sorted(started - ended - alive)
    if lost:
        return Finding(question, False, f"{len(lost):,}, such as {lost[0]}")
    return Finding(
        question, True, f"no: {len(ended):,} have, {len(alive):,} are under way at step {evidence.ledger.step}"
    )


def does_the_equation_hold(evidence: Evidence) -> Finding:
    """issued = trained + in flight + parked + dropped, in windows, after every step; and no step is missing."""
    question = "Is every window accounted for after every step?"
    steps = [line["step"] for line in evidence.metrics]
    if steps != list(range(1, len(steps) + 1)):
        return Finding(question, False, f"metrics.jsonl has the steps {_brief(steps)}; expected 1 to {len(steps)}")
    broken = [
        line["step"]
        for line in evidence.metrics
        if line["ledger/issued"] != sum(line[f"ledger/{term}"] for term in TERMS)
    ]
    if broken:
        return Finding(question, False, f"not after {len(broken)} steps: {_brief(broken)}")
    return Finding(question, True, f"yes: issued = {' + '.join(TERMS)} after {len(steps)} steps")


def does_every_step_have_its_trace(evidence: Evidence) -> Finding:
    """Every step up to the newest checkpoint, from the first that was traced; later ones may be repeated."""
    question = "Does every step have its trace, and do trace and metrics agree?"
    first, last = min([*evidence.headers, *evidence.unreadable]), evidence.ledger.step
    missing = [step for step in range(first, last + 1) if step not in evidence.headers]
    if missing:
        return Finding(question, False, f"{len(missing)} steps have none that can be read: {_brief(missing)}")
    sampled_now = pc.field("in_window") & pc.field("is_sampled")
    traced = Counter(evidence.tokens.filter(sampled_now)["step"].to_pylist())
    compared = [line for line in evidence.metrics if line["step"] in evidence.headers]
    differing = [line["step"] for line in compared if traced[line["step"]] != line["tokens/window"]]
    if differing:
        return Finding(question, False, f"metrics.jsonl counts other tokens in steps {_brief(differing)}")
    return Finding(question, True, f"yes: steps {first} to {max(evidence.headers)}")


PROMISES: Sequence[Callable[[Evidence], Finding]] = (
    is_any_token_trained_twice,
    is_any_window_taken_twice,
    is_any_value_trained_twice,
    is_any_token_too_old,
    is_any_prefix_too_old,
    is_any_response_lost,
    does_the_equation_hold,
    does_every_step_have_its_trace,
)


def untrained(evidence: Evidence) -> list[Untrained]:
    """By the ledger of the newest checkpoint: windows by their state, tokens that the value model still waits for, and
    tokens that the policy never trains.
    """
    rollouts = evidence.ledger.rollouts
    by_state = [_in_state(rollouts, state, what) for state, what in UNTRAINED.items()]
    num_prefix = sum(rollout["window_start"] for rollout in rollouts)
    left_out = evidence.tokens.filter(pc.field("in_window") & pc.field("is_sampled") & ~pc.field("policy_mask"))
    return [
        *by_state,
        Untrained("trained by the policy, response not finished", None, num_prefix),
        Untrained("left out of the policy's loss: tails of cuts, too old, or during the warm-up", None, len(left_out)),
    ]


def _in_state(rollouts: Sequence[Mapping[str, Any]], state: str, what: str) -> Untrained:
    """The windows in a state, and how many tokens they have so far."""
    found = [rollout for rollout in rollouts if rollout["state"] == state]
    num_tokens = sum(rollout["lengths"]["response_tokens"] - rollout["window_start"] for rollout in found)
    return Untrained(what, len(found), num_tokens)


def _prefix_ages(evidence: Evidence) -> Iterator[PrefixAge]:
    """Of every window behind another one of its response."""
    sampled_now = evidence.tokens.filter(pc.field("in_window") & pc.field("is_sampled"))
    taken = sampled_now.group_by(["rollout_id", "window_index", "step"])
    oldest: dict[str, int] = {}
    for window in taken.aggregate([("policy_version", "min")]).sort_by("step").to_pylist():
        rollout_id, version = window["rollout_id"], window["policy_version_min"]
        if rollout_id in oldest:
            yield PrefixAge(rollout_id, window["window_index"], window["step"], window["step"] - 1 - oldest[rollout_id])
        oldest[rollout_id] = min(version, oldest.get(rollout_id, version))


def _counted(table: pyarrow.Table, keys: list[str]) -> pyarrow.Table:
    """The distinct keys, and how often each occurs."""
    return table.group_by(keys).aggregate([([], "count_all")]).rename_columns([*keys, "count"])


def _caveat(evidence: Evidence) -> str:
    """Traces have a token's first step; what a system reuses on purpose is not in them."""
    reusing = {header.algorithm for header in evidence.headers.values()} & REUSING
    return f" in its first step; {reusing.pop()} trains it again in later ones, by design" if reusing else ""


def _steps_of(table: pyarrow.Table, rollout_id: str, *, position: int) -> str:
    rows = table.filter((pc.field("rollout_id") == rollout_id) & (pc.field("position") == position))
    return " and ".join(str(step) for step in rows["step"].to_pylist())


def _brief(steps: Sequence[int]) -> str:
    return ", ".join(map(str, steps[:5])) + (" ..." if len(steps) > 5 else "")
