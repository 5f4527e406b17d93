"""`tppo rescore RUN --function NAME`: what another function makes of the responses that a run has logged."""

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from statistics import fmean

from services.reward.commands.offline import add_function_arguments, scorer_of, scores_in_order
from services.reward.reporting.response_log import logged_responses, request_of
from tppo.config import ConfigError
from tppo.process.shell import configure_logging
from tppo.run_folder.json_lines import Fields
from tppo.run_folder.paths import RunPaths, run_path
from tppo.scoring.lines import score_fields

IDENTITY = ("rollout_id", "attempt", "data_source", "is_evaluation")


def main(argv: Sequence[str]) -> int:
    """0 when every response was answered, whatever the answers are."""
    parser = argparse.ArgumentParser(
        prog="tppo rescore",
        description="Score a run's responses again with another function, without generating. Prints a line of JSON "
        "for each, in the order of their first scores, and a summary on standard error.",
    )
    add_function_arguments(parser)
    parser.add_argument("run", type=run_path, metavar="RUN", help="the run's folder, or its name under runs/")
    arguments = parser.parse_args(argv)
    configure_logging()
    logged = logged_responses(arguments.run)
    if not logged:
        raise ConfigError(
            f"{RunPaths(arguments.run).responses}: no responses there; expected the folder of a run with "
            "reward.log_responses = true, or reward.kept_prompts above 0, whose reward services wrote to this disk"
        )
    rescored = asyncio.run(_rescore(arguments, logged))
    print(_summary(logged, rescored), file=sys.stderr)
    return 0


async def _rescore(arguments: argparse.Namespace, logged: Sequence[Fields]) -> list[Fields]:
    rescored: list[Fields] = []
    async with scorer_of(arguments) as scorer:
        async for score in scores_in_order(scorer, map(request_of, logged)):
            before = logged[len(rescored)]
            identity = {key: before[key] for key in IDENTITY}
            previous = {f"previous_{key}": before[key] for key in ("status", "score", "function")}
            rescored.append({**identity, **score_fields(score), **previous})
            print(json.dumps(rescored[-1], ensure_ascii=False))
    return rescored


def _summary(logged: Sequence[Fields], rescored: Sequence[Fields]) -> str:
    num_changed = sum(line["score"] != line["previous_score"] for line in rescored)
    return (
        f"{len(rescored)} responses: mean score {_mean(rescored)} instead of {_mean(logged)}, "
        f"{num_changed} scores differ, {sum(line['score'] is None for line in rescored)} without a score"
    )


def _mean(lines: Sequence[Fields]) -> str:
    scores = [line["score"] for line in lines if line["score"] is not None]
    return f"{fmean(scores):.4f}" if scores else "none"


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
