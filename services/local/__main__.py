"""`tppo run CONFIG`: check, start every process on this machine, train, and say what came of it."""

import argparse
import time

from tppo.config import ConfigError, add_config_arguments, config_from_arguments


def main(argv: list[str]) -> int:
    """Run; 0 trained to the end, 1 failed, 2 wrong configuration, 130 stopped by the user."""
    started_at = time.monotonic()
    parser = argparse.ArgumentParser(prog="tppo run", description="Start every process on this machine and train.")
    add_config_arguments(parser)
    parser.add_argument("--resume", action="store_true", help="continue from the run's newest checkpoint")
    parser.add_argument(
        "--retry-parked", action="store_true", help="with --resume: request what was parked (scores, windows) again"
    )
    parser.add_argument("--dry-run", action="store_true", help="check everything, print what would start, and end")
    parser.add_argument(
        "--exit-at-end", action="store_true", help="end with the run on a terminal too, where the dashboard else stays"
    )
    arguments = parser.parse_args(argv)
    config = config_from_arguments(arguments)
    if arguments.retry_parked and not arguments.resume:
        raise ConfigError("--retry-parked without --resume: a run from scratch has nothing parked; expected both")

    from services.local import launch  # slow to import: --help and a wrong key answer at once

    notes = launch.check(config, resume=arguments.resume)
    plan = launch.plan_of(config, resume=arguments.resume, retries_parked=arguments.retry_parked)
    if arguments.dry_run:
        print("\n".join(launch.description(plan, notes)))
        return 0
    return launch.train(plan, notes, started_at=started_at, keeps_dashboard=not arguments.exit_at_end)
