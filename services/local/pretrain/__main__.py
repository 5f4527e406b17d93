"""`tppo pretrain-critic CONFIG`: train the value model on the policy as it is, until it explains the returns."""

import argparse
import sys
import time

from tppo.config import add_config_arguments, config_from_arguments

EPILOG = """The same command continues after a crash or Ctrl-C. The critic that it writes is for model.critic_path."""


def main(argv: list[str]) -> int:
    """0 there is a critic, 1 failed, 2 wrong configuration, 130 stopped by the user."""
    started_at = time.monotonic()
    arguments = _parser().parse_args(argv)
    config = config_from_arguments(arguments)
    from services.local.pretrain.pretraining import Pretraining  # slow to import: --help answers at once
    from services.local.pretrain.stopping import StopRule

    rule = StopRule(
        bound=arguments.explained_variance,
        num_averaged=arguments.averaged_steps,
        num_settled=arguments.settled_steps,
        least_rise=arguments.least_rise,
    )
    pretraining = Pretraining(
        config,
        rule,
        source=arguments.config,
        max_steps=arguments.max_steps,
        output=arguments.output,
    )
    return pretraining.run(started_at=started_at)


def _parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="tppo pretrain-critic",
        description="Train the value model on whole responses of the policy, which stays as it is, until its explained "
        "variance no longer rises or reaches a bound.",
        epilog=EPILOG,
    )
    add_config_arguments(made)
    made.add_argument(
        "--explained-variance", type=_share, metavar="BOUND", help="enough: such as 0.8 (default: until it settles)"
    )
    made.add_argument("--max-steps", type=_count, default=200, metavar="N", help="training steps at most [200]")
    made.add_argument(
        "--averaged-steps", type=_count, default=5, metavar="N", help="explained variance is the mean of so many [5]"
    )
    made.add_argument(
        "--settled-steps", type=_count, default=10, metavar="N", help="so many steps without a rise end it [10]"
    )
    made.add_argument("--least-rise", type=_share, default=0.01, metavar="RISE", help="what counts as a rise [0.01]")
    made.add_argument(
        "--output", metavar="DIR", help="a new or empty folder for the critic (default: runs/NAME-critic/critic)"
    )
    return made


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 1_000_000:
        raise argparse.ArgumentTypeError(f"{text}; expected a whole number from 1 to 1000000")
    return int(text)


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise argparse.ArgumentTypeError(f"{text}; expected a number from 0 to 1")
    return share


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
