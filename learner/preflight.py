"""What the learner can refuse before anything starts, without loading a model: rows, tokenizer, reward functions."""

import logging
from collections.abc import Iterable

from learner.data.shape import DataError
from learner.reporting.trackers import trackers
from tppo.config import Config, ConfigError

logger = logging.getLogger(__name__)


def check(config: Config) -> list[str]:
    """Read every row as the run would, and keep none; what is worth a note.

    Raises `ConfigError` at the first row that cannot be used or scored, or a tracker that cannot work here.
    """
    trackers.check(config.trackers)
    log_warnings(config)
    from learner.data.tokenizer import load_tokenizer, prompt_readers  # transformers takes seconds to import

    reader, evaluation_reader = prompt_readers(config, load_tokenizer(config.model.path))
    train, evaluated = reader.overlong("data.train_files"), reader.overlong("data.val_files")
    data_sources: set[str] = set()
    try:
        data_sources.update(row.data_source for row, _ in reader.stream(config.data.train_files, train))
        data_sources.update(one.data_source for one in evaluation_reader.stream(config.data.val_files, evaluated))
    except DataError as error:
        raise ConfigError(str(error)) from None
    require_reward_functions(config, data_sources)
    return [f"{overlong}; skipped" for overlong in (train, evaluated) if overlong.num_too_long]


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
