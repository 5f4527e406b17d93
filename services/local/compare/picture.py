"""`comparison.png`: accuracy on the evaluation set against time, decode steps and tokens; a line per system."""

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from services.local.compare.measures import Measures, Point
from services.local.compare.report import by_algorithm

AXES: tuple[tuple[str, Callable[[Point], float]], ...] = (
    ("seconds of training", lambda point: point.seconds),
    ("decode steps", lambda point: point.decode_steps),
    ("tokens generated", lambda point: point.tokens),
)


def draw_comparison(runs: Sequence[Measures], path: Path, *, title: str) -> None:
    """Draw and save the picture: the mean over seeds, with the standard deviation around it."""
    figure = Figure(figsize=(13, 4), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(AXES), sharey=True)
    for axes, (label, spent) in zip(panels, AXES, strict=True):
        for algorithm, of_system in by_algorithm(runs).items():
            _draw(axes, [run.curve for run in of_system], spent, label=algorithm)
        axes.set_xlabel(label)
        if "seconds" not in label:
            axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("accuracy on the evaluation set")
    panels[0].legend(loc="best")
    figure.suptitle(title)
    figure.savefig(path, dpi=120)


def _draw(axes: Axes, curves: Sequence[Sequence[Point]], spent: Callable[[Point], float], *, label: str) -> None:
    """The runs of a system evaluate at the same steps; a mean point is the mean of both coordinates."""
    steps = list(zip(*curves, strict=True))
    positions = [statistics.mean(spent(point) for point in points) for points in steps]
    means = [statistics.mean(point.accuracy for point in points) for points in steps]
    spreads = [statistics.stdev(point.accuracy for point in points) if len(points) > 1 else 0.0 for points in steps]
    (line,) = axes.plot(positions, means, marker="o", markersize=3, label=label)
    lower = [mean - spread for mean, spread in zip(means, spreads, strict=True)]
    upper = [mean + spread for mean, spread in zip(means, spreads, strict=True)]
    axes.fill_between(positions, lower, upper, color=line.get_color(), alpha=0.2)
