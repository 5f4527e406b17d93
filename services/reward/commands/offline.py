"""Scores without a run: many responses in their order, by one function that the command line names."""

import argparse
import logging
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from pydantic import ValidationError

from services.reward.build import attach_server, placed, scoring
from services.reward.scorer import Scorer
from services.reward.verifiers.placement import Place
from tppo.config import ConfigError
from tppo.config.mistakes import expected_of, shown
from tppo.config.reference import key_text
from tppo.config.schema import RewardSection
from tppo.rollout import RewardRequest, Score
from tppo.scoring.lines import UnreadableLineError, results_in_order
from tppo.security.authentication import Service, token_from_environment
from tppo.security.private_files import new_secret
from tppo.security.tls import TlsFiles, require_tls_or_token

log = logging.getLogger(__name__)

MAX_UNDER_WAY = 1024  # requests that are read and not written yet
OPTIONS = (
    "num_workers",
    "concurrency",
    "timeout_seconds",
    "attach_wait_seconds",
    "memory_limit_mb",
    "allow_unsandboxed",
    "host",
    "port",
)


def add_function_arguments(parser: argparse.ArgumentParser) -> None:
    """Which function, and the keys of `[reward]` that matter to it."""
    parser.add_argument(
        "--function",
        required=True,
        metavar="NAME",
        help="as in [reward.functions]: math, file.py:name, grpc:name, a sum",
    )
    fields = RewardSection.model_fields
    for key in OPTIONS:
        default = fields[key].default
        option = f"--{key.replace('_', '-')}"
        meaning = key_text(fields[key].description or "").meaning
        if default is False:
            parser.add_argument(option, action="store_true", help=meaning)
        else:
            parser.add_argument(option, type=type(default), default=default, help=f"{meaning} [{default}]")


@asynccontextmanager
async def scorer_of(arguments: argparse.Namespace) -> AsyncIterator[Scorer]:
    """The function, ready to score; a server for users' processes where it takes part. Raises `ConfigError`."""
    section = _section(arguments)
    async with scoring(section, default_key="--function") as parts:
        if not placed(section, Place.ATTACHED):
            yield parts.scorer
            return
        token = token_from_environment(Service.REWARD)
        require_tls_or_token(section.host, token)
        if not token and TlsFiles.from_environment() is None:
            token = new_secret()
        async with attach_server(section, parts, run="", token=token) as address:
            log.info("the function's process may attach at %s", address)
            yield parts.scorer


def scores_in_order(scorer: Scorer, requests: Iterable[RewardRequest | UnreadableLineError]) -> AsyncIterator[Score]:
    """A score for each request, many under way at a time; what was no request is a failure."""
    return results_in_order((_score(scorer, request) for request in requests), max_under_way=MAX_UNDER_WAY)


async def _score(scorer: Scorer, request: RewardRequest | UnreadableLineError) -> Score:
    if isinstance(request, UnreadableLineError):
        return request.as_score()
    return await scorer.score(request)


def _section(arguments: argparse.Namespace) -> RewardSection:
    if not arguments.function:
        raise ConfigError("--function = '': expected the name of a reward function, or a sum of them")
    chosen = {key: getattr(arguments, key) for key in OPTIONS}
    try:
        return RewardSection(default_function=arguments.function, **chosen)
    except ValidationError as error:
        (first, *_) = error.errors()
        key = str(first["loc"][0])
        option = "--function" if key == "default_function" else f"--{key.replace('_', '-')}"
        raise ConfigError(f"{option} = {shown(first['input'])}; expected {expected_of(RewardSection, key)}") from None
