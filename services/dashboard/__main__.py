"""`tppo dashboard`: the page, the REST interface and the control of a run; or of a folder of runs, to browse."""

import argparse
import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tppo.config import ConfigError, add_config_arguments, config_from_arguments
from tppo.process.shell import configure_logging
from tppo.security.redis_address import with_redis

if TYPE_CHECKING:  # the web server is imported when the arguments are parsed
    from services.dashboard.build import ServingOptions

DEFAULT_HOST = "127.0.0.1"


def main(argv: Sequence[str]) -> int:
    """Serve until SIGTERM."""
    arguments = _parser().parse_args(argv)
    from services.dashboard.build import serve

    options = _options(arguments)
    configure_logging()
    asyncio.run(serve(options))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tppo dashboard",
        description="A run's page, REST interface and control; or, for a folder of runs, what they have left behind.",
    )
    add_config_arguments(parser, help_of_config="the run's TOML file, or a folder of runs")
    parser.add_argument("--name", default="dashboard", help="name of this process in the status")
    parser.add_argument("--host", default=DEFAULT_HOST, help="address to listen on, when a folder is browsed")
    parser.add_argument("--port", type=int, help="when a folder is browsed; 0: any free one [8265, or the next free]")
    parser.add_argument("--fd", type=int, metavar="NUMBER", help="an inherited socket that listens already")
    return parser


def _options(arguments: argparse.Namespace) -> "ServingOptions":
    from services.dashboard.build import ServingOptions

    if arguments.config.is_dir():
        _require_folder_arguments(arguments)
        return ServingOptions(
            root=arguments.config, host=arguments.host, port=arguments.port, fd=arguments.fd, name=arguments.name
        )
    if not arguments.config.exists():
        raise ConfigError(f"{arguments.config}: no such file; expected the run's TOML file, or a folder of runs")
    config = with_redis(config_from_arguments(arguments))
    section = config.dashboard
    return ServingOptions(
        root=config.run.directory,
        host=section.host,
        port=section.port,
        fd=arguments.fd,
        name=arguments.name,
        config=config,
    )


def _require_folder_arguments(arguments: argparse.Namespace) -> None:
    """Refuse what a folder of runs is not browsed with."""
    if arguments.overrides or arguments.redis:
        raise ConfigError("--set and --redis belong to a run's TOML file; a folder is browsed without them")
    if arguments.port is not None and not 0 <= arguments.port <= 65535:
        raise ConfigError(f"--port {arguments.port}: expected 0 to 65535")
