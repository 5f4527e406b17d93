"""What one run took, measured: read from its `metrics.jsonl`. Nothing here is modelled.

The clock runs from the moment at which a generator began the first window to the end of the last step. Evaluations lie
behind the last step, so neither the clock nor the generators' counts have any of them.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.local.metrics import MetricLine, RunMetrics
from tppo.run_folder.metric_lines import END, read_metric_lines
from tppo.run_folder.paths import RunPaths


@dataclass(frozen=True, kw_only=True)
class Point:
    """The policy after one step, and what had been spent when the step was done."""

    step: int
    accuracy: float
    accuracy_stderr: float
    seconds: float
    decode_steps: float
    tokens: float
    accuracy_exact: float | None = None
    """Without sampling noise, where the evaluation set has worked solutions."""


@dataclass(frozen=True, kw_only=True)
class Measures:
    """One run in numbers."""

    system: str
    """Its name in the comparison."""
    seed: int
    steps: int
    responses: int
    """Finished and trained."""
    base_accuracy: float
    final_accuracy: float
    seconds: float
    decode_steps: int
    tokens: int
    """Generated."""
    slot_occupancy: float
    """Share of the slots in use, over all decode steps."""
    generation_share: float
    """Of the time in which generators and learner computed, the generators' part."""
    curve: tuple[Point, ...]
    clip_fraction: float | None = None
    """Of the policy's tokens; this and what follows are means over the steps that updated, None where none did."""
    dual_clip_fraction: float | None = None
    value_clip_fraction: float | None = None
    effective_sample_size: float | None = None
    token_lag: float | None = None
    """Steps between the weights that sampled a token and those that it trained."""


def measured(folder: Path, *, system: str, seed: int, rollouts_per_step: int) -> Measures:
    """The measures of a run that has ended."""
    lines = read_metric_lines(RunPaths(folder).metrics)
    metrics, end = RunMetrics(lines), _end_line(lines)
    curve = tuple(_curve(metrics, end))
    busy = end["generation/seconds_busy"]
    trained = sum(line["timing_s/train"] for line in metrics.steps)
    return Measures(
        system=system,
        seed=seed,
        steps=len(metrics.steps),
        responses=round(sum(line["response/finished_fraction"] for line in metrics.steps) * rollouts_per_step),
        base_accuracy=curve[0].accuracy,
        final_accuracy=curve[-1].accuracy,
        seconds=metrics.steps[-1]["seconds_since_first_window"],
        decode_steps=end["generation/num_decode_steps"],
        tokens=end["generation/num_tokens"],
        slot_occupancy=end["generation/num_active_slot_steps"] / max(1, end["generation/num_slot_steps"]),
        generation_share=busy / (busy + trained),
        curve=curve,
        clip_fraction=metrics.mean("actor/pg_clipfrac"),
        dual_clip_fraction=metrics.mean("actor/pg_clipfrac_lower"),
        value_clip_fraction=metrics.mean("critic/vf_clipfrac"),
        effective_sample_size=metrics.mean("actor/effective_sample_size"),
        token_lag=metrics.mean("policy_lag/mean"),
    )


def reached(curve: Sequence[Point], target: float) -> float | None:
    """Seconds until the accuracy was first at the target, on straight lines between evaluations; None: never."""
    if curve[0].accuracy >= target:
        return curve[0].seconds
    for before, after in itertools.pairwise(curve):
        if before.accuracy < target <= after.accuracy:
            share = (target - before.accuracy) / (after.accuracy - before.accuracy)
            return before.seconds + share * (after.seconds - before.seconds)
    return None


def common_target(runs: Sequence[Measures]) -> float:
    """The highest accuracy, in whole hundredths, that every run has reached at some evaluation."""
    lowest_peak = min(max(point.accuracy for point in run.curve) for run in runs)
    return int(lowest_peak * 100 + 1e-9) / 100


def have_exact(runs: Sequence[Measures]) -> bool:
    """Whether every point of every curve has an accuracy without sampling noise."""
    return all(point.accuracy_exact is not None for run in runs for point in run.curve)


def accuracy_of(point: Point, *, is_exact: bool) -> float:
    """The exact one, or the sampled one."""
    return point.accuracy_exact if is_exact and point.accuracy_exact is not None else point.accuracy


def by_system(runs: Sequence[Measures]) -> dict[str, list[Measures]]:
    """The runs of each system, in the order in which the systems came."""
    found: dict[str, list[Measures]] = {}
    for run in runs:
        found.setdefault(run.system, []).append(run)
    return found


def _curve(metrics: RunMetrics, end: MetricLine) -> list[Point]:
    """Counts are as of the generators' last heartbeats, at most a second old; those at the end are complete."""
    by_step = {line["step"]: line for line in metrics.steps}
    last = by_step[end["step"]]
    by_step[end["step"]] = last | {name: value for name, value in end.items() if name.startswith("generation/")}
    return [_point(evaluation, by_step.get(evaluation["step"])) for evaluation in metrics.evaluations]


def _point(evaluation: MetricLine, step: MetricLine | None) -> Point:
    """`step` is None for the base model, on which nothing was spent."""
    spent: dict[str, Any] = step or {}
    return Point(
        step=evaluation["step"],
        accuracy=evaluation["eval/accuracy"],
        accuracy_stderr=evaluation.get("eval/accuracy_stderr") or 0.0,
        seconds=spent.get("seconds_since_first_window", 0.0),
        decode_steps=spent.get("generation/num_decode_steps", 0),
        tokens=spent.get("generation/num_tokens", 0),
        accuracy_exact=evaluation.get("eval/accuracy_exact"),
    )


def _end_line(lines: Sequence[MetricLine]) -> MetricLine:
    """What the generators had done when training was over."""
    return next(line for line in reversed(lines) if line["kind"] == END)
