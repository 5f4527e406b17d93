"""`tppo eval`: sample a benchmark, score it as in training, and say how good the policy is."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from services.local.arguments import positive
from tppo.config.load import add_overrides_argument

EPILOG = """The same command continues after a crash: what was sampled is not sampled again. With a larger --samples the
same evaluation goes on."""


def main(argv: Sequence[str]) -> int:
    """0 done, 1 a process or the policy was lost, 2 wrong use, 130 stopped by the user."""
    arguments = _parser().parse_args(argv)
    from services.local.evaluate.evaluation import evaluate  # pyarrow, scipy and httpx wait for the arguments

    return evaluate(arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tppo eval",
        description="Accuracy of a checkpoint, or of the policy of a run that trains, on benchmark files: pass@k, "
        "majority votes and lengths, with 95 % intervals.",
        epilog=EPILOG,
    )
    parser.add_argument("target", metavar="RUN|CHECKPOINT|MODEL", help="a run's folder or name, or a model's folder")
    parser.add_argument("--live", action="store_true", help="ask the generators of the run, which trains meanwhile")
    parser.add_argument("--checkpoint", default="latest", metavar="latest|best|STEP", help="of a run (default: latest)")
    parser.add_argument(
        "--benchmark",
        type=Path,
        action="append",
        required=True,
        metavar="FILE",
        help="problems in JSON Lines, gzipped or not, or parquet (may be repeated)",
    )
    parser.add_argument("--samples", type=positive, default=1, metavar="N", help="responses to each problem [1]")
    parser.add_argument("--limit", type=positive, metavar="N", help="the first so many problems of each file")
    parser.add_argument("--temperature", type=float, help="0: greedy (default: the run's evaluation.temperature, or 1)")
    parser.add_argument("--max-tokens", type=positive, help="of a response (default: run.max_response_length, or 2048)")
    parser.add_argument("--seed", type=int, default=0, help="of the samples [0]")
    parser.add_argument(
        "--template", default="", metavar="KIND|TEXT", help="math, aime, gsm8k, plain, or a text with {problem}"
    )
    parser.add_argument(
        "--function",
        default="",
        metavar="NAME",
        help="reward function, as in [reward.functions] (default: the run's for the data source, else math)",
    )
    parser.add_argument("--output", type=Path, metavar="DIR", help="where responses and summary go")
    add_overrides_argument(parser, help="override a key of the configuration, such as generation.num_slots=64")
    return parser


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
