"""`comparison.json`, `comparison.md` and `comparison.png`: each system with mean and spread over its seeds."""

import io
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from services.local.compare.measures import Measures, Point, accuracy_of, by_system, have_exact, reached
from services.local.compare.paired import differences
from tppo.run_folder.durable import write_atomically
from tppo.run_folder.json_files import write_object

AXES: tuple[tuple[str, Callable[[Point], float]], ...] = (
    ("seconds of training", lambda point: point.seconds),
    ("decode steps", lambda point: point.decode_steps),
    ("tokens generated", lambda point: point.tokens),
)
"""What the accuracy is drawn over."""


@dataclass(frozen=True, slots=True)
class Column:
    """One number of a run, and how it is shown."""

    name: str
    title: str
    form: str
    of: Callable[[Measures], float | None]
    missing: str = "none"
    """What stands where a run has no such number."""


EXACT_COLUMNS = (
    Column("base_accuracy_exact", "exact before", "{:.4f}", lambda run: run.curve[0].accuracy_exact),
    Column("final_accuracy_exact", "exact after", "{:.4f}", lambda run: run.curve[-1].accuracy_exact),
)


@dataclass(frozen=True, slots=True)
class MeanAndSpread:
    """Over the seeds; None where a run has no such number, or where one seed has no spread."""

    mean: float | None
    deviation: float | None


def columns(runs: Sequence[Measures], target: float) -> list[Column]:
    """The table's columns; exact accuracies where every run has them."""
    return [
        Column("base_accuracy", "accuracy before", "{:.3f}", lambda run: run.base_accuracy),
        Column("final_accuracy", "accuracy after", "{:.3f}", lambda run: run.final_accuracy),
        *(EXACT_COLUMNS if have_exact(runs) else ()),
        Column("seconds", "seconds of training", "{:.1f}", lambda run: run.seconds),
        Column(
            "seconds_to_target",
            f"seconds to {target:.2f}",
            "{:.1f}",
            lambda run: reached(run.curve, target),
            "not reached",
        ),
        Column("decode_steps", "decode steps", "{:,.0f}", lambda run: run.decode_steps),
        Column("tokens", "tokens generated", "{:,.0f}", lambda run: run.tokens),
        Column("slot_occupancy", "slot occupancy", "{:.2f}", lambda run: run.slot_occupancy),
        Column("generation_share", "share of generation", "{:.2f}", lambda run: run.generation_share),
        Column("responses", "responses finished", "{:,.0f}", lambda run: run.responses),
        Column("steps", "steps", "{:,.0f}", lambda run: run.steps),
    ]


UPDATE_COLUMNS = (
    Column("clip_fraction", "clipped tokens", "{:.4f}", lambda run: run.clip_fraction),
    Column("dual_clip_fraction", "by the dual clip", "{:.4f}", lambda run: run.dual_clip_fraction),
    Column("value_clip_fraction", "clipped values", "{:.4f}", lambda run: run.value_clip_fraction),
    Column("effective_sample_size", "effective sample size", "{:.3f}", lambda run: run.effective_sample_size),
    Column("token_lag", "token lag", "{:.2f}", lambda run: run.token_lag),
)
"""What bounded the updates."""


def mean_and_spread(numbers: Sequence[float | None]) -> MeanAndSpread:
    """Mean and standard deviation over the seeds."""
    known = [number for number in numbers if number is not None]
    if len(known) < len(numbers):
        return MeanAndSpread(None, None)
    return MeanAndSpread(statistics.mean(known), statistics.stdev(known) if len(known) > 1 else None)


def write_json(runs: Sequence[Measures], path: Path, *, target: float) -> None:
    """Everything that was measured, for another program."""
    systems = {
        system: {
            "summary": {
                column.name: asdict(mean_and_spread([column.of(run) for run in of_system]))
                for column in (*columns(runs, target), *UPDATE_COLUMNS)
            },
            "runs": [asdict(run) for run in of_system],
        }
        for system, of_system in by_system(runs).items()
    }
    write_object(path, {"target_accuracy": target, "systems": systems})


def write_table(runs: Sequence[Measures], path: Path, *, target: float, task: str) -> None:
    """One table, for a person."""
    document = "\n".join(_document(runs, target=target, task=task)) + "\n"
    write_atomically(path, document.encode())


def draw_comparison(runs: Sequence[Measures], path: Path, *, title: str) -> None:
    """Draw and save the picture: the mean over seeds, with the standard deviation around it."""
    figure = Figure(figsize=(13, 4), layout="constrained")
    FigureCanvasAgg(figure)
    is_exact = have_exact(runs)
    panels = figure.subplots(1, len(AXES), sharey=True)
    for axes, (label, spent) in zip(panels, AXES, strict=True):
        for system, of_system in by_system(runs).items():
            _draw(axes, [run.curve for run in of_system], spent, label=system, is_exact=is_exact)
        axes.set_xlabel(label)
        if "seconds" not in label:
            axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.grid(alpha=0.3)
    panels[0].set_ylabel(f"{'exact ' if is_exact else ''}accuracy on the evaluation set")
    panels[0].legend(loc="best")
    figure.suptitle(title)
    picture = io.BytesIO()
    figure.savefig(picture, dpi=120)
    write_atomically(path, picture.getvalue())


def _document(runs: Sequence[Measures], *, target: float, task: str) -> Iterator[str]:
    num_seeds = max(len(of_system) for of_system in by_system(runs).values())
    yield from (f"# {task}: {', '.join(by_system(runs))}", "")
    yield f"Mean and standard deviation over {num_seeds} seed{'s' if num_seeds > 1 else ''}; everything is measured."
    yield "Seconds run from the first window to the end of the last step; evaluations come after it and count nowhere."
    yield f"{target:.2f} is the requested accuracy, or the highest that every run reached, read between evaluations."
    yield ""
    yield from _table(runs, columns(runs, target))
    yield ""
    yield "What bounded the updates, as means over the steps: shares of the tokens that the clip, the dual clip"
    yield "and the value clip held; the share that the importance weights leave in effect; and the steps between the"
    yield "weights that sampled a token and those that it trained (docs/metrics.md)."
    yield ""
    yield from _table(runs, UPDATE_COLUMNS)
    yield from _differences(runs)


def _differences(runs: Sequence[Measures]) -> Iterator[str]:
    found = differences(runs)
    if not found:
        return
    *_, last = by_system(runs)
    kind = "exact" if have_exact(runs) else "sampled"
    yield from (
        "",
        f"Final {kind} accuracy less that of {last}, seed by seed: mean, 95 % interval, and Student's p-value",
    )
    yield "after Holm's correction for the number of rows."
    yield from ("", f"| system | less {last} | p |", "|---|---|---|")
    for system, (difference, p_value) in found.items():
        yield f"| {system} | {difference} | {p_value:.3f} |"


def _table(runs: Sequence[Measures], shown: Sequence[Column]) -> Iterator[str]:
    yield f"| system | {' | '.join(column.title for column in shown)} |"
    yield f"|---|{'---|' * len(shown)}"
    for system, of_system in by_system(runs).items():
        cells = [_cell(column, mean_and_spread([column.of(run) for run in of_system])) for column in shown]
        yield f"| {system} | {' | '.join(cells)} |"


def _cell(column: Column, numbers: MeanAndSpread) -> str:
    if numbers.mean is None:
        return column.missing
    mean = column.form.format(numbers.mean)
    return mean if numbers.deviation is None else f"{mean} ± {column.form.format(numbers.deviation)}"


def _draw(
    axes: Axes, curves: Sequence[Sequence[Point]], spent: Callable[[Point], float], *, label: str, is_exact: bool
) -> None:
    """The runs of a system evaluate at the same steps; a mean point is the mean of both coordinates."""
    steps = list(zip(*curves, strict=True))
    positions = [statistics.mean(spent(point) for point in points) for points in steps]
    accuracies = [[accuracy_of(point, is_exact=is_exact) for point in points] for points in steps]
    means = [statistics.mean(of_step) for of_step in accuracies]
    spreads = [statistics.stdev(of_step) if len(of_step) > 1 else 0.0 for of_step in accuracies]
    (line,) = axes.plot(positions, means, marker="o", markersize=3, label=label)
    lower = [mean - spread for mean, spread in zip(means, spreads, strict=True)]
    upper = [mean + spread for mean, spread in zip(means, spreads, strict=True)]
    axes.fill_between(positions, lower, upper, color=line.get_color(), alpha=0.2)
