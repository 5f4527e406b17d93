"""`tppo doctor`: a table of what was found, and for what is wrong what to do."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from services.local.doctor.diagnosis import Diagnosis, Severity, diagnoses_of, problem
from tppo.config import ConfigError
from tppo.config.load import add_overrides_argument, load
from tppo.security.redis_address import redis_url_from_environment

STYLES = {Severity.OK: "green", Severity.WARNING: "yellow", Severity.PROBLEM: "red"}


def main(argv: Sequence[str]) -> int:
    """Exit code 0: nothing stands in the way; 1: something does."""
    arguments = _parser().parse_args(argv)
    if arguments.before is not None:
        return _report_before(arguments.before)
    found = _diagnoses(arguments)
    if arguments.json:
        print(json.dumps([asdict(one) for one in found], indent=1))
    else:
        _print(found)
    return _exit_code(found)


def _report_before(words: Sequence[str]) -> int:
    """To standard error, as a log takes it."""
    from services.local.doctor.of_process import wrong_before

    found = wrong_before(words)
    for one in found:
        print(f"tppo doctor: {one.state}: {one.check}: {one.found}; {one.what_to_do}", file=sys.stderr)
    if not found:
        print(f"tppo doctor: nothing stands in the way of tppo {words[0]}", file=sys.stderr)
    return _exit_code(found)


def _exit_code(found: Sequence[Diagnosis]) -> int:
    return int(any(one.state is Severity.PROBLEM for one in found))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tppo doctor", description="Check this machine, or all that one run needs, and say what to do."
    )
    parser.add_argument("--run", type=Path, metavar="CONFIG", help="check for this run: its TOML file")
    add_overrides_argument(parser, help="with --run: as tppo run's")
    parser.add_argument("--redis", metavar="URL", default="", help="the server to check; with --run: redis.url")
    parser.add_argument("--json", action="store_true", help="print a JSON list: check, state, found, what_to_do")
    parser.add_argument(
        "--before",
        nargs=argparse.REMAINDER,
        metavar="VERB ARGUMENTS",
        help="check for one process, by its command line, where it is about to start; a line for each thing that is "
        "wrong: generation, reward, learner, dashboard",
    )
    return parser


def _diagnoses(arguments: argparse.Namespace) -> list[Diagnosis]:
    from services.local.doctor.of_run import checks_of_machine, checks_of_run  # slow to import, after --help

    url = arguments.redis or redis_url_from_environment()
    if arguments.run is None:
        return list(diagnoses_of(checks_of_machine(Path("runs"), url)))
    redis = [f'redis.url="{arguments.redis}"'] if arguments.redis else []
    try:
        config = load(arguments.run, [*arguments.overrides, *redis])
    except ConfigError as error:
        wrong = problem("configuration", str(error), "correct it; docs/configuration.md has every key")
        return [wrong, *diagnoses_of(checks_of_machine(Path("runs"), url))]
    return list(diagnoses_of(checks_of_run(config)))


def _print(found: Sequence[Diagnosis]) -> None:
    from rich.console import Console  # images of some processes lack it
    from rich.table import Table

    table = Table(show_lines=False)
    for column in ("check", "", "found", "what to do"):
        table.add_column(column, overflow="fold")
    for one in found:
        table.add_row(one.check, f"[{STYLES[one.state]}]{one.state}[/]", _plain(one.found), _plain(one.what_to_do))
    console = Console(highlight=False)
    console.print(table)
    num_wrong = sum(one.state is Severity.PROBLEM for one in found)
    console.print(f"{num_wrong} problem(s)" if num_wrong else "nothing stands in the way")


def _plain(text: str) -> str:
    """Without markup."""
    from rich.markup import escape

    return escape(text)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
