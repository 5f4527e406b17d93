"""`learning_curve.png`: accuracy on the evaluation set and training reward, over steps and over seconds."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from services.local.metrics import RunMetrics


def draw_learning_curve(metrics: RunMetrics, path: Path, *, title: str) -> None:
    """Draw and save the picture; an evaluation stands where its weights were made, not where its result came in."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)
    over_steps, over_seconds = figure.subplots(1, 2, sharey=True)
    _draw(over_steps, metrics, {line["step"]: float(line["step"]) for line in metrics.steps} | {0: 0.0})
    _draw(over_seconds, metrics, {line["step"]: line["seconds_since_start"] for line in metrics.steps} | {0: 0.0})
    over_steps.set(xlabel="training step", ylabel="accuracy, reward")
    over_seconds.set(xlabel="seconds")
    if metrics.steps or metrics.evaluations:
        over_steps.legend(loc="lower right")
    figure.suptitle(title)
    figure.savefig(path, dpi=120)


def _draw(axes: Axes, metrics: RunMetrics, position_of_step: dict[int, float]) -> None:
    rewarded = [line for line in metrics.steps if line.get("reward/mean") is not None]
    axes.plot(
        [position_of_step[line["step"]] for line in rewarded],
        [line["reward/mean"] for line in rewarded],
        color="tab:gray",
        alpha=0.6,
        linewidth=1,
        label="reward in training",
    )
    evaluated = [line for line in metrics.evaluations if line["eval/step"] in position_of_step]
    axes.errorbar(
        [position_of_step[line["eval/step"]] for line in evaluated],
        [line["eval/accuracy"] for line in evaluated],
        yerr=[line["eval/accuracy_stderr"] for line in evaluated],
        color="tab:blue",
        marker="o",
        capsize=3,
        label="accuracy on the evaluation set, standard error",
    )
    axes.grid(alpha=0.3)
