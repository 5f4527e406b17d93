"""What `tppo run` and `tppo summarize` write: the run in a few numbers, `summary.json`, and `learning_curve.png`."""

import io
import logging
import threading
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from services.local.metrics import MetricLine, RunMetrics
from services.local.supervision.child import Ending
from tppo.generation_totals import GenerationTotals
from tppo.run_folder.durable import write_atomically
from tppo.run_folder.json_files import DamagedFileError, read_object, write_object
from tppo.run_folder.metric_lines import read_metric_lines
from tppo.run_folder.paths import RunPaths

if TYPE_CHECKING:
    from matplotlib.axes import Axes

log = logging.getLogger(__name__)

ADDED_UP = {
    "seconds_total": float,
    "seconds_generation": float,
    "tokens_generated": int,
    "decode_steps": int,
    "slot_occupancy": float | None,
    "slot_steps": int,
}
"""What the sessions of a run add up in its summary."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The run in a few numbers; accuracies are None where nothing was evaluated."""

    ending: str = "running"
    """finished, gave up, refused or interrupted; `running` also after a kill of everything."""
    cause: str = ""
    """Why it gave up or was refused, in a sentence."""
    base_accuracy: float | None
    """On the evaluation set before the first step."""
    base_accuracy_stderr: float | None
    final_accuracy: float | None
    """The last evaluation's, if there was one after the first step."""
    final_accuracy_stderr: float | None
    base_accuracy_exact: float | None
    """Without sampling noise, where the evaluation set has worked solutions."""
    final_accuracy_exact: float | None
    steps: int
    skipped_prompts: int
    """Rows of the data files that are longer than run.max_prompt_length."""
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


def summarize(
    metrics: RunMetrics, totals: GenerationTotals, *, seconds_total: float, ending: Ending | None = None
) -> Summary:
    """The summary of a run that has ended like this, or goes on."""
    base = next((line for line in metrics.evaluations if line["step"] == 0), {})
    final = next((line for line in reversed(metrics.evaluations) if line["step"] > 0), {})
    occupancy = totals.num_active_slot_steps / totals.num_slot_steps if totals.num_slot_steps else None
    return Summary(
        ending=ending.kind.value if ending else "running",
        cause=ending.message if ending else "",
        base_accuracy=base.get("eval/accuracy"),
        base_accuracy_stderr=base.get("eval/accuracy_stderr"),
        final_accuracy=final.get("eval/accuracy"),
        final_accuracy_stderr=final.get("eval/accuracy_stderr"),
        base_accuracy_exact=base.get("eval/accuracy_exact"),
        final_accuracy_exact=final.get("eval/accuracy_exact"),
        steps=int(metrics.steps[-1]["step"]) if metrics.steps else 0,
        skipped_prompts=int(metrics.steps[-1].get("data/skipped_prompts", 0)) if metrics.steps else 0,
        seconds_total=round(seconds_total, 3),
        seconds_generation=round(totals.seconds_busy, 3),
        seconds_training=round(sum(line.get("timing_s/train", 0.0) for line in metrics.steps), 3),
        tokens_generated=totals.num_tokens,
        decode_steps=totals.num_decode_steps,
        slot_occupancy=None if occupancy is None else round(occupancy, 4),
        slot_steps=totals.num_slot_steps,
    )


class SummaryFile:
    """`summary.json` of one session: written now and then by a thread, and a last time at the session's end.

    No cancellation ends a thread: one that is about to write then writes before the last time, or not at all.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._writing = threading.Lock()
        self._has_ended = False

    def write(self, summary: Summary, *, is_last: bool = False) -> None:
        """Whole, or not at all. Raises OSError when the disk does not take it."""
        with self._writing:
            if self._has_ended:
                return
            write_object(self.path, asdict(summary))
            self._has_ended = is_last


def earlier_session(paths: RunPaths) -> tuple[float, GenerationTotals]:
    """Seconds and generators' totals of the sessions before a resume: by the summary, or, where that is missing or
    damaged, by the learner's metrics.
    """
    try:
        earlier = read_object(paths.summary, ADDED_UP)
    except DamagedFileError as error:
        log.warning("%s; added up from %s", error, paths.metrics)
        earlier = None
    if earlier is None:
        return added_up(read_metric_lines(paths.metrics))
    totals = GenerationTotals(
        seconds_busy=earlier["seconds_generation"],
        num_tokens=earlier["tokens_generated"],
        num_decode_steps=earlier["decode_steps"],
        num_active_slot_steps=round((earlier["slot_occupancy"] or 0.0) * earlier["slot_steps"]),
        num_slot_steps=earlier["slot_steps"],
    )
    return float(earlier["seconds_total"]), totals


def added_up(lines: list[MetricLine]) -> tuple[float, GenerationTotals]:
    """A generator that is started again counts from zero: where a count falls, what stood before it is added."""
    seconds, before, last = 0.0, GenerationTotals(), GenerationTotals()
    for line in lines:
        seconds = max(seconds, line.get("seconds_since_start") or 0.0)
        counts = {name: line.get(f"generation/{name}") for name in asdict(last)}
        present = replace(last, **{name: count for name, count in counts.items() if count is not None})
        if present.num_decode_steps < last.num_decode_steps:
            before += last
        last = present
    return seconds, before + last


def draw_learning_curve(metrics: RunMetrics, path: Path, *, title: str) -> None:
    """Draw and save the picture; an evaluation stands where its weights were made, not where its result came in."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # a second to import
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)
    over_steps, over_seconds = figure.subplots(1, 2, sharey=True)
    _draw(over_steps, metrics, {line["step"]: float(line["step"]) for line in metrics.steps} | {0: 0.0})
    seconds = {line["step"]: line["seconds_since_start"] for line in metrics.steps if line.get("seconds_since_start")}
    _draw(over_seconds, metrics, seconds | {0: 0.0})
    over_steps.set(xlabel="training step", ylabel="accuracy, reward")
    over_seconds.set(xlabel="seconds")
    if metrics.steps or metrics.evaluations:
        over_steps.legend(loc="lower right")
    figure.suptitle(title)
    picture = io.BytesIO()
    figure.savefig(picture, dpi=120)
    write_atomically(path, picture.getvalue())


def _draw(axes: "Axes", metrics: RunMetrics, position_of_step: dict[int, float]) -> None:
    drawn = [line for line in metrics.steps if line["step"] in position_of_step]
    rewarded = [line for line in drawn if line.get("reward/mean") is not None]
    axes.plot(
        [position_of_step[line["step"]] for line in rewarded],
        [line["reward/mean"] for line in rewarded],
        color="tab:gray",
        alpha=0.6,
        linewidth=1,
        label="reward in training",
    )
    evaluated = [line for line in metrics.evaluations if line["step"] in position_of_step]
    axes.errorbar(
        [position_of_step[line["step"]] for line in evaluated],
        [line["eval/accuracy"] for line in evaluated],
        yerr=[line.get("eval/accuracy_stderr") or 0.0 for line in evaluated],
        color="tab:blue",
        marker="o",
        capsize=3,
        label="accuracy on the evaluation set, standard error",
    )
    axes.grid(alpha=0.3)
