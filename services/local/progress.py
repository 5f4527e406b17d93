"""What the user sees of a run: the facts gathered in one record, and their form on a terminal and in a log."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from services.local.metrics import MetricLine, RunMetrics
from services.local.summary import Summary
from services.local.supervisor import ChildState

RATE_STEPS = 10
"""Tokens per second are taken over this many steps."""


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """A share of correct answers with its standard error."""

    value: float
    stderr: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ± {self.stderr:.3f}"


@dataclass(frozen=True, kw_only=True)
class Progress:
    """A run at one moment; None where nothing is known yet."""

    total_steps: int
    step: int = 0
    reward: float | None = None
    base_accuracy: Accuracy | None = None
    accuracy: Accuracy | None = None
    response_length: float | None = None
    tokens_per_second: float | None = None
    windows_in_flight: int | None = None
    policy_lag: float | None = None
    address: str = ""
    troubled: Mapping[str, str]
    """Processes that are not running as they should, and why."""
    waiting_for: str = ""
    """What the learner waits for, in its words, until the first step is done."""


def progress_of(
    metrics: RunMetrics,
    states: Mapping[str, ChildState],
    *,
    total_steps: int,
    address: str = "",
    waiting_for: str = "",
) -> Progress:
    """The facts of this moment."""
    last = metrics.steps[-1] if metrics.steps else {}
    evaluations = metrics.evaluations
    return Progress(
        total_steps=total_steps,
        step=int(last.get("step", 0)),
        reward=last.get("reward/mean"),
        base_accuracy=_accuracy(evaluations[0]) if evaluations else None,
        accuracy=_accuracy(evaluations[-1]) if len(evaluations) > 1 else None,
        response_length=last.get("response_length/mean"),
        tokens_per_second=_tokens_per_second(metrics.steps),
        windows_in_flight=last.get("windows/in_flight"),
        policy_lag=last.get("policy_lag/mean"),
        address=address,
        troubled={name: state.value for name, state in states.items() if state is not ChildState.RUNNING},
        waiting_for="" if metrics.steps else waiting_for,
    )


def plain_line(progress: Progress) -> str:
    """One line for a log."""
    facts = [f"step {progress.step}/{progress.total_steps}"]
    facts += [f"{name} {text}" for name, text in _facts(progress).items()]
    facts += [f"waiting for {progress.waiting_for}"] if progress.waiting_for else []
    facts += [f"{name}: {state}" for name, state in progress.troubled.items()]
    return " | ".join(facts)


def live_table(progress: Progress, *, title: str) -> Table:
    """The same facts for a terminal, redrawn in place."""
    table = Table(title=title, show_header=False, title_justify="left", min_width=60)
    table.add_column(style="dim")
    table.add_column()
    table.add_row("step", _bar(progress.step, progress.total_steps))
    for name, text in _facts(progress).items():
        table.add_row(name, text)
    if progress.waiting_for:
        table.add_row("waiting for", progress.waiting_for)
    if progress.address:
        table.add_row("status", progress.address)
    for name, state in progress.troubled.items():
        table.add_row(name, f"[yellow]{state}[/]")
    return table


def closing_table(summary: Summary, files: Mapping[str, str]) -> Table:
    """What came of it."""
    table = Table(show_header=False, min_width=60)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    table.add_row("accuracy before", _accuracy_text(summary.base_accuracy, summary.base_accuracy_stderr))
    table.add_row("accuracy after", _accuracy_text(summary.final_accuracy, summary.final_accuracy_stderr))
    table.add_row("steps", str(summary.steps))
    table.add_row("seconds", f"{summary.seconds_total:.0f}")
    table.add_row("  generators computing", f"{summary.seconds_generation:.0f}")
    table.add_row("  learner computing", f"{summary.seconds_training:.0f}")
    table.add_row("tokens generated", f"{summary.tokens_generated:,}")
    for name, path in files.items():
        table.add_row(name, path)
    return table


def _facts(progress: Progress) -> dict[str, str]:
    """Each known fact as a text, in the order of showing."""
    formats: dict[str, tuple[Any, str]] = {
        "reward": (progress.reward, "{:.3f}"),
        "accuracy": (_course(progress), "{}"),
        "response length": (progress.response_length, "{:.0f}"),
        "tokens/s": (progress.tokens_per_second, "{:,.0f}"),
        "windows in flight": (progress.windows_in_flight, "{}"),
        "policy lag": (progress.policy_lag, "{:.2f}"),
    }
    return {name: form.format(value) for name, (value, form) in formats.items() if value is not None}


def _course(progress: Progress) -> str | None:
    known = [str(accuracy) for accuracy in (progress.base_accuracy, progress.accuracy) if accuracy is not None]
    return " -> ".join(known) or None


def _bar(step: int, total_steps: int, width: int = 30) -> str:
    num_filled = width * step // total_steps
    return f"{step}/{total_steps} [green]{'━' * num_filled}[/][dim]{'━' * (width - num_filled)}[/]"


def _accuracy(line: MetricLine) -> Accuracy:
    return Accuracy(value=line["eval/accuracy"], stderr=line["eval/accuracy_stderr"])


def _accuracy_text(value: float | None, stderr: float | None) -> str:
    return "not evaluated" if value is None or stderr is None else str(Accuracy(value=value, stderr=stderr))


def _tokens_per_second(steps: list[MetricLine]) -> float | None:
    """Trained tokens per second over the last steps."""
    if len(steps) < 2:
        return None
    first, last = steps[-min(len(steps), RATE_STEPS + 1)], steps[-1]
    seconds = last["seconds_since_start"] - first["seconds_since_start"]
    num_tokens = last["tokens/trained"] - first["tokens/trained"]
    return float(num_tokens / seconds) if seconds > 0 else None
