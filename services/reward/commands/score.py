"""`tppo score --function NAME FILE.jsonl`: a line of JSON for each line of the file, in its order."""

import argparse
import asyncio
import json
import logging
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from services.reward.commands.offline import (
    UnreadableError,
    add_function_arguments,
    score_line,
    scorer_of,
    scores_in_order,
)
from tppo.config import ConfigError
from tppo.rollout import RewardRequest


def main(argv: Sequence[str]) -> int:
    """0 when every line was answered, whatever the answers are."""
    parser = argparse.ArgumentParser(
        prog="tppo score",
        description='Score lines of {"response", "ground_truth"}, with "data_source" and "extra_info" if you like. '
        'Prints lines of {"status", "score", "components", "seconds", "error"} in the same order.',
    )
    add_function_arguments(parser)
    parser.add_argument("file", type=Path, metavar="FILE.jsonl", help="- for standard input")
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    if str(arguments.file) == "-":
        asyncio.run(_score(arguments, sys.stdin))
        return 0
    try:
        with arguments.file.open(encoding="utf-8") as lines:
            asyncio.run(_score(arguments, lines))
    except OSError as error:
        raise ConfigError(f"{arguments.file}: {error.strerror}; expected a file of JSON lines") from None
    return 0


async def _score(arguments: argparse.Namespace, lines: TextIO) -> None:
    async with scorer_of(arguments) as scorer:
        async for score in scores_in_order(scorer, _requests(lines)):
            print(json.dumps(score_line(score), ensure_ascii=False))


def _requests(lines: TextIO) -> Iterator[RewardRequest | UnreadableError]:
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                yield _request(number, json.loads(line))
            except (ValueError, KeyError, TypeError) as error:
                yield UnreadableError(f'line {number}: {error!r}; expected an object with "response", "ground_truth"')


def _request(number: int, row: Any) -> RewardRequest:
    if not isinstance(row, dict):
        raise TypeError(f"it is a {type(row).__name__}")
    return RewardRequest(
        rollout_id=f"line-{number}",
        attempt=0,
        data_source=str(row.get("data_source", "")),
        prompt=_text(row.get("prompt", "")),
        response=_text(row["response"]),
        ground_truth=_text(row["ground_truth"]),
        extra_info=json.dumps(row.get("extra_info") or {}),
        num_response_tokens=int(row.get("num_response_tokens", 0)),
    )


def _text(value: object) -> str:
    """A text as it is; a number or a list as JSON writes it."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
