"""The lines of `metrics.jsonl` (docs/metrics.md)."""

import time
from dataclasses import asdict, dataclass
from typing import Any

from learner.rollouts.evaluation import Evaluation
from learner.rollouts.manager import RolloutManager
from learner.step.metrics import Metrics
from learner.step.progress import TrainingProgress
from tppo.generation_totals import GenerationTotals


@dataclass(frozen=True, slots=True)
class Clocks:
    """Durations in seconds."""

    since_start: float  # of the run
    since_first_window: float | None  # since a generator began the first window; None in a resumed run
    waited: float  # in this step, for rows
    trained: float  # in this step


def step_line(
    manager: RolloutManager, metrics: Metrics, *, step: int, clocks: Clocks, generation: GenerationTotals
) -> dict[str, Any]:
    """The line of a training step."""
    ledger = manager.ledger
    return {
        "kind": "step",
        "step": step,
        "time": time.time(),
        "seconds_since_start": clocks.since_start,
        "seconds_since_first_window": clocks.since_first_window,
        "timing_s/step": clocks.waited + clocks.trained,
        "timing_s/wait": clocks.waited,
        "timing_s/train": clocks.trained,
        **metrics,
        **generation_numbers(generation),
        **{f"ledger/{name}": value for name, value in asdict(ledger.conservation()).items()},
        **{f"ledger/dropped/{reason}": count for reason, count in ledger.dropped.items()},
        "ledger/resent_requests": ledger.num_resent_requests,
        "windows/in_flight": ledger.conservation().in_flight,
        "windows/ready": len(ledger.ready),
        "windows/duplicates": ledger.duplicates["window"],
        "scores/duplicates": ledger.duplicates["score"],
    }


def generation_numbers(totals: GenerationTotals) -> dict[str, float]:
    """What the generators have done so far."""
    return {f"generation/{name}": value for name, value in asdict(totals).items()}


def end_line(totals: GenerationTotals, progress: TrainingProgress) -> dict[str, Any]:
    """What training took of the generators, when nothing is in flight any more."""
    return {
        "kind": "end",
        "step": progress.step,
        "time": time.time(),
        "seconds_since_start": progress.elapsed_seconds,
        **generation_numbers(totals),
    }


def evaluation_line(evaluation: Evaluation, *, seconds_since_start: float) -> dict[str, Any]:
    """The line of an evaluation round."""
    return {
        "kind": "evaluation",
        "step": evaluation.step,
        "time": time.time(),
        "seconds_since_start": seconds_since_start,
        "eval/step": evaluation.step,
        "eval/accuracy": evaluation.accuracy,
        "eval/accuracy_stderr": evaluation.accuracy_stderr,
        "eval/num_scored": evaluation.num_scored,
        "eval/num_unscored": evaluation.num_unscored,
        "eval/response_length/mean": evaluation.mean_response_length,
        "eval/policy_version/min": evaluation.oldest_policy_version,
        "eval/policy_version/max": evaluation.newest_policy_version,
    }
