"""`tppo score --function NAME FILE.jsonl`: a line of JSON for each line of the file, in its order."""

import argparse
import asyncio
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from services.reward.commands.offline import add_function_arguments, scorer_of, scores_in_order
from tppo.process.shell import configure_logging
from tppo.scoring.lines import DESCRIPTION, opened, print_score, requests_in


def main(argv: Sequence[str]) -> int:
    """0 when every line was answered, whatever the answers are."""
    parser = argparse.ArgumentParser(prog="tppo score", description=DESCRIPTION)
    add_function_arguments(parser)
    parser.add_argument("file", type=Path, metavar="FILE.jsonl", help="- for standard input")
    arguments = parser.parse_args(argv)
    configure_logging()
    with opened(arguments.file) as lines:
        asyncio.run(_score(arguments, lines))
    return 0


async def _score(arguments: argparse.Namespace, lines: Iterable[str]) -> None:
    async with scorer_of(arguments) as scorer:
        async for score in scores_in_order(scorer, requests_in(lines)):
            print_score(score)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
