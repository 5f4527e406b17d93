"""TOML file and command-line overrides -> `Config`; whatever is wrong becomes one sentence that names the key.

Relative paths in the file are relative to the file's folder; those given by `--set` to the current one. An override
without a value, `--set model.critic_path=`, is as if the file did not have the key.
"""

import argparse
import os
import re
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import ValidationError

from tppo.config import consistency, presets
from tppo.config.mistakes import all_keys, sentence_of, suggestion
from tppo.config.schema import Config

Table = dict[str, Any]
QUOTED_FUNCTION = re.compile(r"([\"'])([^\"']+\.py)(?=:\w+\1)")
PATH_KEYS = (
    *(("model", "path"), ("model", "critic_path"), ("generation", "python")),
    *(("data", "train_files"), ("data", "val_files"), ("evaluation", "sets")),
)


class ConfigError(ValueError):
    """One sentence for the user: the key, its value, and what was expected. Processes exit with code 2."""


def load(path: Path | str, overrides: Sequence[str] = ()) -> Config:
    """The configuration in `path` with `section.key=value` overrides; values are TOML, or plain text.

    Raises `ConfigError` when the file is missing or not TOML, or a key is unknown, missing or wrong.
    """
    path = Path(path)
    return _loaded(_read_toml(path), overrides, source=str(path), base=path.resolve().parent)


def loads(text: str, overrides: Sequence[str] = (), *, source: str) -> Config:
    """As `load`, from the text of a file with absolute paths, which came from `source`."""
    try:
        table = tomllib.loads(text)
    except ValueError as error:
        raise ConfigError(f"{source}: not a TOML file: {error}") from None
    return _loaded(table, overrides, source=source, base=Path("/"))


def _loaded(table: Table, overrides: Sequence[str], *, source: str, base: Path) -> Config:
    _resolve_paths(table, base=base)
    is_resolved = _is_resolved(table)
    overriding: Table = {}
    for override in overrides:
        key, value = _parted(override)
        (_merge if value else _unset)(overriding, _parsed_override(key, value))
        if not value:
            _unset(table, _parsed_override(key, value))
    presets.drop_replaced_keys(table, overriding)
    chosen = consistency.chosen_keys({} if is_resolved else table, overriding)
    _merge(table, overriding)
    try:
        config = Config.model_validate(table)
    except ValidationError as error:
        raise ConfigError(f"{source}: {sentence_of(error.errors()[0], table)}") from None
    for contradiction in consistency.contradictions(config, chosen):
        raise ConfigError(f"{source}: {contradiction}")
    return config


def dump(config: Config) -> str:
    """The configuration as TOML that `load` reads back to an equal one, every default spelled out."""
    return tomli_w.dumps(config.model_dump(mode="json", exclude_none=True))


def add_config_arguments(
    parser: argparse.ArgumentParser, *, help_of_config: str = "the run's TOML file", is_optional: bool = False
) -> None:
    """The arguments by which every process is given its configuration."""
    parser.add_argument("config", type=Path, nargs="?" if is_optional else None, help=help_of_config)
    add_overrides_argument(parser, help="override a key of the file, as in --set run.seed=1; --set run.seed= unsets it")
    parser.add_argument("--redis", metavar="URL", default="", help="same as --set redis.url=URL")


def add_overrides_argument(parser: argparse.ArgumentParser, *, help: str, metavar: str = "KEY=VALUE") -> None:
    """`--set`, as often as wanted: what `load` takes as overrides."""
    parser.add_argument(
        "--set", metavar=metavar, dest="overrides", action="append", default=[], help=f"{help} (may be repeated)"
    )


def config_from_arguments(arguments: argparse.Namespace) -> Config:
    """What `add_config_arguments` collected, loaded."""
    overrides = list(arguments.overrides)
    if arguments.redis:
        overrides.append(f'redis.url="{arguments.redis}"')
    return load(arguments.config, overrides)


def _read_toml(path: Path) -> Table:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; expected the run's TOML file") from None
    except IsADirectoryError:
        raise ConfigError(f"{path}: is a folder; expected the run's TOML file") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}; expected the run's TOML file") from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, brackets of thousands of levels
        raise ConfigError(f"{path}: not a TOML file: {error}") from None


def _parted(override: str) -> tuple[str, str]:
    """The key and the value of `section.key=value`, which may be empty for a key that is known."""
    if not override.isprintable() and _is_not_unicode(override):
        raise ConfigError(f"override {override!r}: not UTF-8; expected text in UTF-8")
    key, equals, text = (part.strip() for part in override.partition("="))
    if not equals or not all(key.split(".")):
        raise ConfigError(f"override {override!r}: expected section.key=value")
    if not text and not {key, key.rpartition(".")[0]} & {*all_keys()}:
        raise ConfigError(f"override {override!r}: unknown key {key}; {suggestion(key.split('.'))}")
    return key, text


def _is_not_unicode(text: str) -> bool:
    """Whether it holds bytes of the command line that are no UTF-8, which Python keeps as lone surrogates."""
    return any("\ud800" <= letter <= "\udfff" for letter in text)


def _parsed_override(key: str, text: str) -> Table:
    """A nested table; a value that is not TOML is taken as text."""
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        value = text
    table: Table = value
    for part in reversed(key.split(".")):
        table = {part: table}
    _resolve_paths(table, base=Path.cwd())
    return table


def _is_resolved(table: Table) -> bool:
    """Whether the file has a whole run's sections, as `dump` writes them: what is in it need not have been chosen."""
    return Config.model_fields.keys() <= table.keys()


def _unset(table: Table, other: Table) -> None:
    for key, value in other.items():
        if not isinstance(value, dict):
            table.pop(key, None)
        elif isinstance(owner := table.get(key), dict):
            _unset(owner, value)


def _merge(table: Table, other: Table) -> None:
    for key, value in other.items():
        if isinstance(value, dict) and isinstance(table.get(key), dict):
            _merge(table[key], value)
        else:
            table[key] = value


def _resolve_paths(table: Table, *, base: Path) -> None:
    for section, key in PATH_KEYS:
        if isinstance(owner := table.get(section), dict) and key in owner:
            owner[key] = _resolved(owner[key], lambda text: base / _at_home(text))
    run = table.get("run")
    if isinstance(run, dict) and isinstance(run.get("directory"), str):
        run["directory"] = _at_home(run["directory"])
    reward = table.get("reward")
    if isinstance(reward, dict):
        for key in ("functions", "default_function"):
            if key in reward:
                reward[key] = _resolved(reward[key], lambda spec: _resolved_function(spec, base))


def _at_home(path: str) -> str:
    """The path with `~`, which no shell replaces in a file or behind `--set key=`, replaced by the home folder."""
    return os.path.expanduser(path)  # pathlib would raise for a user that there is not


def _resolved(value: Any, resolve: Callable[[str], Path | str]) -> Any:
    """`resolve` applied to each text in a value, a list or a table; anything else is left for validation to refuse."""
    if isinstance(value, str):
        return str(resolve(value)) if value else value
    if isinstance(value, list):
        return [_resolved(item, resolve) for item in value]
    if isinstance(value, dict):
        return {key: _resolved(item, resolve) for key, item in value.items()}
    return value


def _resolved_function(spec: str, base: Path) -> str:
    """`file.py:name`, alone or quoted in a sum, with the file made absolute; the name of a built-in as it is."""
    if QUOTED_FUNCTION.search(spec):
        return QUOTED_FUNCTION.sub(lambda found: f"{found[1]}{base / found[2]}", spec)
    file, colon, name = spec.rpartition(":")
    return f"{base / _at_home(file)}:{name}" if colon and file.endswith(".py") else spec
