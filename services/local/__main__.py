"""`tppo run CONFIG`: check, start every process on this machine, train, and say what came of it."""

import argparse
import time

from tppo.config import Config, ConfigError, add_config_arguments, config_from_arguments
from tppo.config.sections.devices import Gpus

LOG_COMPLETIONS_STEPS = 10  # of --log-completions; TRL's GRPO logs as often


def parser() -> argparse.ArgumentParser:
    """Of the command line."""
    made = argparse.ArgumentParser(prog="tppo run", description="Start every process on this machine and train.")
    add_config_arguments(made)
    made.add_argument("--resume", action="store_true", help="continue from the run's newest checkpoint")
    made.add_argument(
        "--retry-parked", action="store_true", help="with --resume: request what was parked (scores, windows) again"
    )
    made.add_argument(
        "--parked-cause",
        metavar="CAUSE",
        default="",
        help="with --retry-parked: only what was parked for this cause, as the dashboard's Ledger shows it",
    )
    made.add_argument(
        "--log-completions",
        action="store_true",
        help="print some prompts, completions and scores after every 10 training steps, or as often as "
        "trace.log_completions says",
    )
    made.add_argument("--dry-run", action="store_true", help="check everything, print what would start, and end")
    made.add_argument(
        "--gpus",
        type=Gpus.of,
        metavar="NxGIB",
        help="with --dry-run: check the run for a machine with so many GPUs of so many GiB each, such as 8x80",
    )
    made.add_argument(
        "--exit-at-end", action="store_true", help="end with the run on a terminal too, where the dashboard else stays"
    )
    return made


def config_of(arguments: argparse.Namespace) -> Config:
    """The run's, with what the options say. Raises `ConfigError`."""
    config = config_from_arguments(arguments)
    if not arguments.log_completions or config.trace.log_completions:
        return config
    arguments.overrides.append(f"trace.log_completions={LOG_COMPLETIONS_STEPS}")
    return config_from_arguments(arguments)


def main(argv: list[str]) -> int:
    """Run; 0 trained to the end, 1 failed, 2 wrong configuration, 130 stopped by the user."""
    started_at = time.monotonic()
    arguments = parser().parse_args(argv)
    config = config_of(arguments)
    if arguments.retry_parked and not arguments.resume:
        raise ConfigError("--retry-parked without --resume: a run from scratch has nothing parked; expected both")
    if arguments.parked_cause and not arguments.retry_parked:
        raise ConfigError("--parked-cause without --retry-parked: it says which of them; expected both")

    if arguments.gpus and not arguments.dry_run:
        raise ConfigError("--gpus without --dry-run: it describes another machine than this; expected both")

    from services.local import launch
    from services.local.hardware.memory import memory_lines  # slow to import: --help and a wrong key answer at once

    if arguments.resume and not arguments.dry_run and (sentence := launch.why_nothing_is_left(config)):
        print(sentence)
        return 0
    notes = launch.check(config, resume=arguments.resume, gpus=arguments.gpus)
    plan = launch.plan_of(
        config, resume=arguments.resume, retries_parked=arguments.retry_parked, parked_cause=arguments.parked_cause
    )
    if arguments.dry_run:
        print("\n".join(launch.description(plan, notes, memory_lines(config, arguments.gpus))))
        return 0
    warnings = (*config.warnings, *notes)
    return launch.train(plan, warnings, started_at=started_at, keeps_dashboard=not arguments.exit_at_end)
