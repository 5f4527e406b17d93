"""What the learner can refuse before anything starts, without loading a model: rows and reward functions.

What needs the tokenizer (the length of a prompt, a chat template) is refused when the learner starts, before any step.
"""

import logging
from collections.abc import Iterable

from learner.reporting.trackers import trackers
from learner.rollouts.evaluation_prompts import group_of, solution_of
from learner.rollouts.prompts import DataError, read_rows
from tppo.config import Config, ConfigError

logger = logging.getLogger(__name__)


def check(config: Config) -> None:
    """Raise `ConfigError` at the first row that cannot be asked or scored, or a tracker that cannot work here."""
    trackers.check(config.trackers)
    log_warnings(config)
    try:
        train, evaluation = (
            read_rows(config.data, files) if files else [] for files in (config.data.train_files, config.data.val_files)
        )
        for row in evaluation[: config.evaluation.num_prompts]:
            solution_of(row, config.evaluation)
            group_of(row, config.evaluation)
    except DataError as error:
        raise ConfigError(str(error)) from None
    require_reward_functions(config, (row.data_source for row in (*train, *evaluation)))


def log_warnings(config: Config) -> None:
    """Say what is allowed but may not be meant."""
    for warning in config.warnings:
        logger.warning("%s", warning)


def require_reward_functions(config: Config, data_sources: Iterable[str]) -> None:
    """Every data source must have somebody who scores it."""
    missing = sorted(set(data_sources) - config.reward.functions.keys())
    if missing and not config.reward.default_function:
        raise ConfigError(
            f"data_source {missing[0]!r} has no reward function; expected it in [reward.functions], "
            "or reward.default_function"
        )
