"""The run's configuration: one TOML file, checked before anything starts.

Keys: `sections/`, put together in `schema.py`; reading: `load.py`.
"""

from tppo.config.load import ConfigError, add_config_arguments, config_from_arguments, dump, load, loads
from tppo.config.schema import Config

__all__ = ["Config", "ConfigError", "add_config_arguments", "config_from_arguments", "dump", "load", "loads"]
