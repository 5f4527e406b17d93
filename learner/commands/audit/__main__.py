"""`tppo audit RUN`: 0 every promise was kept, 1 one was broken, 2 there is nothing to audit."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from learner.commands.audit.evidence import collect, require_run
from learner.commands.audit.promises import Finding, Untrained, findings, untrained
from learner.commands.audit.rollout_view import decoder, rollout_table, tokens_of
from learner.reporting.conditions import Level, conditions_in
from tppo.run_folder.paths import run_path

WIDTH_IN_A_FILE = 200  # characters; on a terminal its own


def main(argv: Sequence[str]) -> int:
    """Print the findings, or one rollout."""
    parser = argparse.ArgumentParser(prog="tppo audit", description="Check a run's promises against its traces.")
    parser.add_argument("run", type=run_path, help="the run's folder, or its name under runs/")
    parser.add_argument("--rollout", metavar="ID", help="print the tokens of one rollout instead, such as 0-17-0")
    arguments = parser.parse_args(argv)
    folder = arguments.run
    require_run(folder)
    return _show_rollout(folder, arguments.rollout) if arguments.rollout else _audit(folder)


def _audit(folder: Path) -> int:
    evidence = collect(folder)
    found = findings(evidence)
    _print(_findings_table(folder, found))
    _print(_untrained_table(evidence.ledger.step, untrained(evidence)))
    print(f"a replay under the same conditions gives {Level.of(conditions_in(folder))}")
    return 0 if all(finding.is_kept for finding in found) else 1


def _show_rollout(folder: Path, rollout_id: str) -> int:
    tokens, decode = tokens_of(folder, rollout_id), decoder(folder)
    _print(rollout_table(rollout_id, tokens, decode))
    if decode is not None:
        print(decode([token["token_id"] for token in tokens]))
    return 0


def _print(table: Table) -> None:
    """Without markup: a model's text may look like it."""
    width = None if sys.stdout.isatty() else WIDTH_IN_A_FILE
    Console(highlight=False, markup=False, width=width).print(table)


def _findings_table(folder: Path, found: Sequence[Finding]) -> Table:
    table = Table(title=f"audit of {folder}")
    for heading in ("question", "answer", "kept"):
        table.add_column(heading)
    for finding in found:
        kept = Text("yes", style="green") if finding.is_kept else Text("BROKEN", style="bold red")
        table.add_row(finding.question, finding.answer, kept)
    return table


def _untrained_table(step: int, entries: Sequence[Untrained]) -> Table:
    table = Table(title=f"still untrained at step {step}, the newest checkpoint")
    table.add_column("what")
    for heading in ("windows", "tokens"):
        table.add_column(heading, justify="right")
    for entry in entries:
        table.add_row(entry.what, "" if entry.windows is None else str(entry.windows), f"{entry.tokens:,}")
    return table


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
