"""The picture of the roofline: both roofs with the points below them, on logarithmic axes."""

import io
from collections.abc import Mapping
from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from benchmarks.generation.decode_batches import Limits
from benchmarks.results import Section

Points = Mapping[str, tuple[float, float]]
"""Operations for a byte, and a second, by name."""
INTENSITIES = (0.5, 1000.0)
MARKERS = "osD^"


def draw(section: Section, cards: Limits, path: Path) -> None:
    """What was measured on the left, what is modelled on the right."""
    figure = Figure(figsize=(11, 4), layout="constrained")
    FigureCanvasSVG(figure)
    here, there = figure.subplots(1, 2)
    limits = section["limits"]
    _draw_roof(here, Limits(limits["operations"], limits["memory"]), "roof, from the memory", style="--")
    _draw_roof(here, Limits(limits["operations"], limits["cache"]), "roof, from the caches", style="-")
    _draw_points(here, {way: _measured_point(one) for way, one in section["ways"].items()})
    here.set_title("measured: one core, 106k parameters")
    _draw_roof(there, cards, "roof", style="-")
    modelled = section["modelled"].items()
    _draw_points(there, {way: (one["intensity"], one["operations"] / one["least_seconds"]) for way, one in modelled})
    there.set_title("modelled: eight H800, 32B parameters")
    for axes in (here, there):
        axes.set(xlabel="operations for a byte", ylabel="operations a second", xscale="log", yscale="log")
        axes.grid(alpha=0.3)
        axes.legend(fontsize="x-small", loc="lower right")
    picture = io.BytesIO()
    with rc_context({"svg.hashsalt": "roofline"}):
        figure.savefig(picture, format="svg", metadata={"Date": None})
    path.write_bytes(b"\n".join(line.rstrip() for line in picture.getvalue().splitlines()) + b"\n")


def _measured_point(one: Section) -> tuple[float, float]:
    """The batches as computed, at the engine's rate."""
    computed = one["computed"]
    of_token = computed["operations"] / computed["num_tokens"]
    return computed["intensity"], of_token * one["tokens"] / one["seconds"]


def _draw_roof(axes: Axes, limits: Limits, label: str, *, style: str) -> None:
    low, high = INTENSITIES
    ridge = limits.operations_per_second / limits.bytes_per_second
    places = sorted({low, min(max(ridge, low), high), high})
    axes.plot(places, [limits.attainable(place) for place in places], style, color="black", linewidth=1, label=label)


def _draw_points(axes: Axes, points: Points) -> None:
    for marker, (name, (intensity, rate)) in zip(MARKERS, points.items(), strict=False):
        axes.plot([intensity], [rate], marker, label=name)
