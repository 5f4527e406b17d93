"""`summary.json`: the run in a few numbers, out of the metrics and of what the generators told about themselves."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from services.local.metrics import RunMetrics
from tppo.generation_totals import GenerationTotals


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The run in a few numbers; accuracies are None where nothing was evaluated."""

    base_accuracy: float | None
    """On the evaluation set before the first step."""
    base_accuracy_stderr: float | None
    final_accuracy: float | None
    """The last evaluation's, if there was one after the first step."""
    final_accuracy_stderr: float | None
    steps: int
    seconds_total: float
    """Wall-clock time of `tppo run`, start and end included; a resumed run adds its sessions up."""
    seconds_generation: float
    """Time in which generators computed."""
    seconds_training: float
    """Time in which the learner computed losses and updates."""
    tokens_generated: int
    decode_steps: int
    slot_occupancy: float | None
    """Share of the slots in use, over all decode steps."""
    slot_steps: int
    """Decode steps times slots: what slot_occupancy is a share of."""


def summarize(metrics: RunMetrics, totals: GenerationTotals, *, seconds_total: float) -> Summary:
    """The summary of a run that has ended, or was stopped here."""
    base = next((line for line in metrics.evaluations if line["eval/step"] == 0), {})
    final = next((line for line in reversed(metrics.evaluations) if line["eval/step"] > 0), {})
    occupancy = totals.num_active_slot_steps / totals.num_slot_steps if totals.num_slot_steps else None
    return Summary(
        base_accuracy=base.get("eval/accuracy"),
        base_accuracy_stderr=base.get("eval/accuracy_stderr"),
        final_accuracy=final.get("eval/accuracy"),
        final_accuracy_stderr=final.get("eval/accuracy_stderr"),
        steps=int(metrics.steps[-1]["step"]) if metrics.steps else 0,
        seconds_total=round(seconds_total, 3),
        seconds_generation=round(totals.seconds_busy, 3),
        seconds_training=round(sum(line.get("timing_s/train", 0.0) for line in metrics.steps), 3),
        tokens_generated=totals.num_tokens,
        decode_steps=totals.num_decode_steps,
        slot_occupancy=None if occupancy is None else round(occupancy, 4),
        slot_steps=totals.num_slot_steps,
    )


def write_summary(summary: Summary, path: Path) -> None:
    """Write it as JSON."""
    path.write_text(json.dumps(asdict(summary), indent=2) + "\n", encoding="utf-8")


def earlier_session(path: Path) -> tuple[float, GenerationTotals]:
    """Seconds and generators' totals of the sessions before a resume, as far as a summary tells them."""
    if not path.exists():
        return 0.0, GenerationTotals()
    earlier = json.loads(path.read_text(encoding="utf-8"))
    totals = GenerationTotals(
        seconds_busy=earlier["seconds_generation"],
        num_tokens=earlier["tokens_generated"],
        num_decode_steps=earlier["decode_steps"],
        num_active_slot_steps=round((earlier["slot_occupancy"] or 0.0) * earlier["slot_steps"]),
        num_slot_steps=earlier["slot_steps"],
    )
    return float(earlier["seconds_total"]), totals
