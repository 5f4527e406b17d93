"""What the user sees of a run: the facts gathered in one record, redrawn in place on a terminal, in lines elsewhere."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from rich.console import Console
from rich.live import Live
from rich.table import Table

from services.local.metrics import MetricLine, RunMetrics
from services.local.results import Summary
from services.local.supervision.child import ChildState

LINE_SECONDS = 2.0
"""Shortest time between two lines."""
SILENCE_SECONDS = 15.0
"""A line comes after this time even when no step was made."""
MAX_ALERT_CHARS = 500
OVER_SECONDS = 10.0
"""An alert that has been away for so long is over."""
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
class RunOverview:
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
    unready: Mapping[str, str]
    """Processes that do not work (yet), and why."""
    waiting_for: str = ""
    """What the learner waits for, in its words, until the first step is done."""


def overview_of(
    metrics: RunMetrics,
    states: Mapping[str, ChildState],
    *,
    total_steps: int,
    loading: Mapping[str, str] | None = None,
    address: str = "",
    waiting_for: str = "",
) -> RunOverview:
    """The facts of this moment; `loading`: what processes load that run already."""
    last = metrics.steps[-1] if metrics.steps else {}
    base = [line for line in metrics.evaluations if line["step"] == 0]
    later = [line for line in metrics.evaluations if line["step"] > 0]
    troubled = {name: state.value for name, state in states.items() if state is not ChildState.RUNNING}
    return RunOverview(
        total_steps=total_steps,
        step=int(last.get("step", 0)),
        reward=last.get("reward/mean"),
        base_accuracy=_accuracy(base[0]) if base else None,
        accuracy=_accuracy(later[-1]) if later else None,
        response_length=last.get("response_length/mean"),
        tokens_per_second=_tokens_per_second(metrics.steps),
        windows_in_flight=last.get("windows/in_flight"),
        policy_lag=last.get("policy_lag/mean"),
        address=address,
        unready={**troubled, **(loading or {})},
        waiting_for="" if metrics.steps else waiting_for,
    )


def plain_line(overview: RunOverview) -> str:
    """One line for a log."""
    facts = [f"step {overview.step}/{overview.total_steps}"]
    facts += [f"{name} {text}" for name, text in _facts(overview).items()]
    facts += [f"waiting for {overview.waiting_for}"] if overview.waiting_for else []
    facts += [f"{name}: {state}" for name, state in overview.unready.items()]
    return " | ".join(facts)


def live_table(overview: RunOverview, *, title: str) -> Table:
    """The same facts for a terminal, redrawn in place."""
    table = Table(title=title, show_header=False, title_justify="left", min_width=60)
    table.add_column(style="dim")
    table.add_column()
    table.add_row("step", _bar(overview.step, overview.total_steps))
    for name, text in _facts(overview).items():
        table.add_row(name, text)
    if overview.waiting_for:
        table.add_row("waiting for", overview.waiting_for)
    if overview.address:
        table.add_row("status", overview.address)
    for name, state in overview.unready.items():
        table.add_row(name, f"[yellow]{state}[/]")
    return table


def closing_table(summary: Summary, files: Mapping[str, str]) -> Table:
    """What came of it."""
    table = Table(show_header=False, min_width=60)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    table.add_row("accuracy before", _accuracy_text(summary.base_accuracy, summary.base_accuracy_stderr))
    table.add_row("accuracy after", _accuracy_text(summary.final_accuracy, summary.final_accuracy_stderr))
    if summary.base_accuracy_exact is not None and summary.final_accuracy_exact is not None:
        table.add_row("  exact", f"{summary.base_accuracy_exact:.4f} -> {summary.final_accuracy_exact:.4f}")
    table.add_row("steps", str(summary.steps))
    if summary.skipped_prompts:
        table.add_row("prompts skipped", f"{summary.skipped_prompts:,} (longer than run.max_prompt_length)")
    table.add_row("seconds", f"{summary.seconds_total:.0f}")
    table.add_row("  generators computing", f"{summary.seconds_generation:.0f}")
    table.add_row("  learner computing", f"{summary.seconds_training:.0f}")
    table.add_row("tokens generated", f"{summary.tokens_generated:,}")
    for name, path in files.items():
        table.add_row(name, path)
    return table


class Display(Protocol):
    """Shows a run while it goes on."""

    def show(self, overview: RunOverview) -> None:
        """Show this moment."""

    def note(self, text: str) -> None:
        """Print a line that stays: what happened to a process."""

    def close(self) -> None:
        """Leave the last moment standing."""


class LiveDisplay:
    """A table that is redrawn in place."""

    def __init__(self, console: Console, title: str) -> None:
        self._title = title
        self._live = Live(console=console, auto_refresh=False)
        self._live.start()

    def show(self, overview: RunOverview) -> None:
        """Redraw."""
        self._live.update(live_table(overview, title=self._title), refresh=True)

    def note(self, text: str) -> None:
        """Above the table."""
        self._live.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def close(self) -> None:
        """Give the terminal back."""
        self._live.stop()


class PlainDisplay:
    """A line per step, but not more often than anybody reads."""

    def __init__(self, write: Callable[[str], object], clock: Callable[[], float] = time.monotonic) -> None:
        self._write = write
        self._clock = clock
        self._last: RunOverview | None = None
        self._written_at = -SILENCE_SECONDS

    def show(self, overview: RunOverview) -> None:
        """Write a line when there is news, or nothing was said for long."""
        silence_seconds = self._clock() - self._written_at
        is_due = overview != self._last and silence_seconds >= LINE_SECONDS
        if is_due or silence_seconds >= SILENCE_SECONDS:
            self._write(plain_line(overview))
            self._last, self._written_at = overview, self._clock()

    def note(self, text: str) -> None:
        """At once."""
        self._write(text)

    def close(self) -> None:
        """Nothing is held back: the closing table follows."""


class AlertNotes:
    """Prints each of the dashboard's alerts when it starts and when it is over, never twice.

    One that is away for less than `OVER_SECONDS` goes on, so that what wavers does not fill the console.
    """

    def __init__(self, note: Callable[[str], object], clock: Callable[[], float] = time.monotonic) -> None:
        self._write = note
        self._clock = clock
        self._active: dict[str, tuple[str, float]] = {}  # key -> first text, when it was last there

    def observe(self, alerts: object, *, is_complete: bool) -> None:
        """Those of this moment, from a heartbeat; none is over as long as they may not be all."""
        now = self._clock()
        for key, severity, text in _alerts_in(alerts):
            if key not in self._active:
                self._write(f"{severity}: {text}")
            self._active[key] = self._active.get(key, (text, now))[0], now
        for key, (text, seen_at) in list(self._active.items()):
            if is_complete and now - seen_at >= OVER_SECONDS:
                self._write(f"over: {text}")
                del self._active[key]

    def stop(self) -> None:
        """From now on processes stop in order, which is nothing to alert about."""
        self._write = lambda line: None


def _alerts_in(alerts: object) -> Iterator[tuple[str, str, str]]:
    """Key, severity and text of each, the text as one line; what is no alert is left out."""
    for one in alerts if isinstance(alerts, list) else ():
        texts = [one.get(name) for name in ("key", "severity", "text")] if isinstance(one, dict) else [None]
        if all(isinstance(text, str) for text in texts):
            key, severity, text = map(str, texts)
            printable = "".join(letter if letter.isprintable() else " " for letter in text)
            yield key, severity, " ".join(printable.split())[:MAX_ALERT_CHARS]


def display_for(console: Console, title: str) -> Display:
    """The display that fits where the output goes."""
    if console.is_terminal:
        return LiveDisplay(console, title)
    return PlainDisplay(lambda line: console.print(line, highlight=False, markup=False, soft_wrap=True))


def _facts(overview: RunOverview) -> dict[str, str]:
    """Each known fact as a text, in the order of showing."""
    formats: dict[str, tuple[Any, str]] = {
        "reward": (overview.reward, "{:.3f}"),
        "accuracy": (_course(overview), "{}"),
        "response length": (overview.response_length, "{:.0f}"),
        "tokens/s": (overview.tokens_per_second, "{:,.0f}"),
        "windows in flight": (overview.windows_in_flight, "{}"),
        "policy lag": (overview.policy_lag, "{:.2f}"),
    }
    return {name: form.format(value) for name, (value, form) in formats.items() if value is not None}


def _course(overview: RunOverview) -> str | None:
    known = [str(accuracy) for accuracy in (overview.base_accuracy, overview.accuracy) if accuracy is not None]
    return " -> ".join(known) or None


def _bar(step: int, total_steps: int, width: int = 30) -> str:
    num_filled = width * step // total_steps
    return f"{step}/{total_steps} [green]{'━' * num_filled}[/][dim]{'━' * (width - num_filled)}[/]"


def _accuracy(line: MetricLine) -> Accuracy:
    return Accuracy(value=line["eval/accuracy"], stderr=line["eval/accuracy_stderr"])


def _accuracy_text(value: float | None, stderr: float | None) -> str:
    return "not evaluated" if value is None or stderr is None else str(Accuracy(value=value, stderr=stderr))


def _tokens_per_second(steps: Sequence[MetricLine]) -> float | None:
    """Trained tokens per second over the last steps."""
    if len(steps) < 2:
        return None
    first, last = steps[-min(len(steps), RATE_STEPS + 1)], steps[-1]
    seconds = last["seconds_since_start"] - first["seconds_since_start"]
    num_tokens = last["tokens/trained"] - first["tokens/trained"]
    return float(num_tokens / seconds) if seconds > 0 else None
