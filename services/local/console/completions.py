"""Prompts, completions and scores on the console, every `trace.log_completions` steps."""

import io
import shutil
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tppo.run_folder.completion_lines import is_completion_line
from tppo.run_folder.json_lines import Fields, JsonLinesFollower

WIDTH = 118
"""Characters of a table, where the terminal is not narrower."""
FEWEST_PROMPT = 12
"""Characters of the prompts' column, which has a third of the width at most."""


class CompletionTables:
    """The tables that have not been printed yet; those of earlier sessions are not printed again."""

    def __init__(self, path: Path) -> None:
        self._follower = JsonLinesFollower(path)
        self._follower.read_all()

    def new(self) -> list[str]:
        """A text for each training step."""
        lines = [fields for _, fields in self._follower.read_all().lines if is_completion_line(fields)]
        width = min(WIDTH, shutil.get_terminal_size(fallback=(WIDTH, 24)).columns)
        return [table_of(step, list(rows), width=width) for step, rows in groupby(lines, key=lambda line: line["step"])]


def table_of(step: int, rows: Sequence[Fields], *, width: int = WIDTH) -> str:
    """The responses of a step, in ASCII but for their own letters; no character of theirs moves the cursor."""
    table = Table(title=f"training step {step}", title_justify="left", box=box.ASCII, width=width)
    longest = max(len(printable(row["prompt"])) for row in rows)
    table.add_column("prompt", width=min(max(longest, FEWEST_PROMPT), width // 3), overflow="fold")
    table.add_column("completion", ratio=1, overflow="fold")
    table.add_column("tokens", justify="right")
    table.add_column("score", justify="right")
    for row in rows:
        score = "not ended" if row["score"] is None else f"{row['score']:.4g}"
        texts = [printable(row["prompt"]), printable(row["completion"]), str(row["num_tokens"]), score]
        table.add_row(*map(Text, texts))  # as texts, so that nothing of theirs is taken for markup
        table.add_section()
    console = Console(file=io.StringIO(), width=width, color_system=None, force_terminal=False)
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())


def printable(text: str) -> str:
    r"""Characters that would be invisible or move the cursor as their escapes, such as \n."""
    return "".join(letter if letter.isprintable() else _escaped(letter) for letter in text)


def _escaped(letter: str) -> str:
    return letter.encode("unicode_escape").decode("ascii")
