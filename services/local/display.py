"""Progress on the standard output: a table redrawn in place on a terminal, lines elsewhere."""

import time
from collections.abc import Callable
from typing import Protocol

from rich.console import Console
from rich.live import Live

from services.local.progress import Progress, live_table, plain_line

LINE_SECONDS = 2.0
"""Shortest time between two lines."""
SILENCE_SECONDS = 15.0
"""A line comes after this time even when no step was made."""


class Display(Protocol):
    """Shows a run while it goes on."""

    def show(self, progress: Progress) -> None:
        """Show this moment."""

    def close(self) -> None:
        """Leave the last moment standing."""


class LiveDisplay:
    """A table that is redrawn in place."""

    def __init__(self, console: Console, title: str) -> None:
        self._title = title
        self._live = Live(console=console, auto_refresh=False)
        self._live.start()

    def show(self, progress: Progress) -> None:
        """Redraw."""
        self._live.update(live_table(progress, title=self._title), refresh=True)

    def close(self) -> None:
        """Give the terminal back."""
        self._live.stop()


class PlainDisplay:
    """A line per step, but not more often than anybody reads."""

    def __init__(self, write: Callable[[str], object], clock: Callable[[], float] = time.monotonic) -> None:
        self._write = write
        self._clock = clock
        self._last: Progress | None = None
        self._written_at = -SILENCE_SECONDS

    def show(self, progress: Progress) -> None:
        """Write a line when there is news, or nothing was said for long."""
        silence_seconds = self._clock() - self._written_at
        is_due = progress != self._last and silence_seconds >= LINE_SECONDS
        if is_due or silence_seconds >= SILENCE_SECONDS:
            self._write(plain_line(progress))
            self._last, self._written_at = progress, self._clock()

    def close(self) -> None:
        """Nothing is held back: the closing table follows."""


def display_for(console: Console, title: str) -> Display:
    """The display that fits where the output goes."""
    if console.is_terminal:
        return LiveDisplay(console, title)
    return PlainDisplay(lambda line: console.print(line, highlight=False, markup=False, soft_wrap=True))
