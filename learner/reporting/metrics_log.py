"""`metrics.jsonl` (docs/metrics.md): a JSON line per training step, per evaluation, and for the end of training."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from learner.rollouts.evaluation import Evaluation
from learner.rollouts.ledger import Ledger
from learner.step.measurements.metrics import Metrics
from learner.step.progress import TrainingProgress
from tppo.generation_totals import GenerationTotals
from tppo.run_folder.durable import write_atomically
from tppo.run_folder.json_lines import JsonLinesWriter, json_line
from tppo.run_folder.metric_lines import EVALUATION, read_metric_lines

Line = dict[str, Any]


class MetricsLog:
    """Appends lines; a resumed run first deletes those after its checkpoint, so that no step has a duplicate, and with
    them what is none of its lines.

    An evaluation may end after the checkpoint of its step: the line that an earlier incarnation wrote of it stays.
    """

    def __init__(
        self,
        path: Path,
        *,
        through_step: int,
        require_right: Callable[[], None] = lambda: None,
        on_line: Callable[[Mapping[str, Any]], None] = lambda line: None,
    ) -> None:
        """`require_right` raises when the file is no longer this process's to write; `on_line` gets each new line."""
        self._on_line = on_line
        self._file = JsonLinesWriter(path, require_right=require_right)
        kept = [line for line in read_metric_lines(path) if line["step"] <= through_step]
        self._evaluated_steps = {line["step"] for line in kept if line.get("kind") == EVALUATION}
        write_atomically(path, b"".join(map(json_line, kept)))

    @property
    def last_error(self) -> str:
        """Why the file could not be written the last time; empty when it could."""
        return self._file.last_error

    def flush(self) -> None:
        """Retry to write what a full disk has refused: at the end there is no next line."""
        self._file.append([])

    def append(self, line: Mapping[str, Any]) -> None:
        """Write one object at once. A full disk does not stop training: the line waits for the next one."""
        if line.get("kind") == EVALUATION and line["step"] in self._evaluated_steps:
            return
        self._file.append([line])
        self._on_line(line)


@dataclass(frozen=True, slots=True)
class StepSeconds:
    """Durations around a training step."""

    since_start: float  # of the run
    since_first_window: float | None  # since a generator began the first window; None in a resumed run
    waited: float  # in this step, for rows
    trained: float  # in this step


def step_line(
    ledger: Ledger, metrics: Metrics, progress: TrainingProgress, *, seconds: StepSeconds, generation: GenerationTotals
) -> Line:
    """The line of the training step that led to `progress`."""
    return {
        "kind": "step",
        "step": progress.step,
        "time": time.time(),
        "seconds_since_start": seconds.since_start,
        "seconds_since_first_window": seconds.since_first_window,
        "timing_s/step": seconds.waited + seconds.trained,
        "timing_s/wait": seconds.waited,
        "timing_s/train": seconds.trained,
        **metrics,
        **_generation_numbers(generation),
        **{f"ledger/{name}": value for name, value in asdict(ledger.conservation()).items()},
        **{f"ledger/dropped/{reason}": count for reason, count in ledger.dropped.items()},
        "ledger/resent_requests": ledger.num_resent_requests,
        "ledger/rejected_records": ledger.num_rejected_records,
        "windows/in_flight": ledger.conservation().in_flight,
        "windows/ready": len(ledger.ready),
        "windows/duplicates": ledger.duplicates["window"],
        "scores/duplicates": ledger.duplicates["score"],
        "tokens/trained": progress.tokens_trained,
    }


def evaluation_line(evaluation: Evaluation, *, seconds_since_start: float) -> Line:
    """The line of an evaluation round."""
    return {
        "kind": EVALUATION,
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
        **{f"eval/accuracy/{group}": mean for group, mean in evaluation.accuracy_by_group.items()},
        **_exact_numbers(evaluation),
        **dict(_numbers_by_source(evaluation)),
    }


def _numbers_by_source(evaluation: Evaluation) -> Iterator[tuple[str, float | None]]:
    """As verl names them: those of all samples are the core."""
    for source, found in evaluation.accuracy_by_source.items():
        core, aux = f"val-core/{source}/acc", f"val-aux/{source}/acc"
        yield f"{core}/mean@{found.num_samples}", found.mean
        for name, by_k in (("best", found.best), ("maj", found.majority)):
            for k, value in by_k.items():
                yield f"{core if k == found.num_samples else aux}/{name}@{k}/mean", value


def _exact_numbers(evaluation: Evaluation) -> Line:
    if evaluation.accuracy_exact is None:
        return {}
    return {
        "eval/accuracy_exact": evaluation.accuracy_exact,
        **{f"eval/accuracy_exact/{group}": mean for group, mean in evaluation.accuracy_exact_by_group.items()},
        "eval/timing_s/accuracy_exact": evaluation.exact_seconds,
    }


def end_line(totals: GenerationTotals, progress: TrainingProgress) -> Line:
    """What training took of the generators, when nothing is in flight any more."""
    return {
        "kind": "end",
        "step": progress.step,
        "time": time.time(),
        "seconds_since_start": progress.elapsed_seconds,
        **_generation_numbers(totals),
    }


def _generation_numbers(totals: GenerationTotals) -> dict[str, float]:
    return {f"generation/{name}": value for name, value in asdict(totals).items()}
