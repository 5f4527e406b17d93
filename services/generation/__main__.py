"""`tppo generation`: builds the generator's real parts and runs them."""

import argparse
import asyncio
import json
import logging
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial
from importlib import import_module
from pathlib import Path

from services.generation.exposed import GENERATION_METRICS
from services.generation.fleet import joining
from tppo.announced_weights import announced_weights
from tppo.config import Config, ConfigError, add_config_arguments, config_from_arguments
from tppo.process.event_loop import spare_imports_from_collection
from tppo.process.interpreter import restart_with
from tppo.process.presence import present
from tppo.process.shell import (
    Announcer,
    configure_logging,
    connected,
    leave_threads,
    on_stop_signal,
    run_until_signalled,
)
from tppo.prometheus import Exporter, serving
from tppo.security.authentication import (
    TOKEN_VARIABLE,
    Service,
    Token,
    token_from_environment,
)
from tppo.security.envelope import Sealer, Writer
from tppo.security.record_keys import record_key
from tppo.security.redis_address import with_redis
from tppo.security.rotating_token import RotatingToken, rotating_metrics_token, served_token
from tppo.security.tls import require_tls_or_token
from tppo.streams import until_redis_answers
from tppo.streams.redis import RedisStreams

log = logging.getLogger(__name__)

GAVE_UP_EXIT_CODE = 3  # no restart mends it; `tppo run` goes on with other generators or ends


def main(argv: Sequence[str]) -> int:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(prog="tppo generation", description="Sample responses, window by window.")
    add_config_arguments(parser, is_optional=True)
    parser.add_argument("--join", metavar="ADDRESS", help="of a run's dashboard, in place of the TOML file")
    parser.add_argument(
        "--token-file",
        metavar="FILE",
        type=Path,
        help="with the run's generation token, for --join "
        f"(default: {Service.GENERATION.variable} or {TOKEN_VARIABLE} of the environment)",
    )
    parser.add_argument(
        "--name",
        default=f"generation-{socket.gethostname()}-{os.getpid()}",
        help="of this generator, unique in the run",
    )
    parser.add_argument(
        "--standalone",
        action="store_true",
        help="serve the weights in model.path by the endpoint alone, without a run and its Redis; prints a line of "
        "JSON with the endpoint",
    )
    parser.add_argument(
        "--policy-version", type=int, default=0, metavar="STEP", help="with --standalone: of these weights"
    )
    parser.add_argument("--check", action="store_true", help="check engine and configuration, and end")
    arguments = parser.parse_args(argv)
    _require_one_source(parser, arguments)
    configure_logging()
    config, token, key = _joined(arguments) if arguments.join else _configured(arguments)
    restart_with(config.generation.python, ["generation", *argv], key="generation.python")
    require_tls_or_token(config.generation.host, str(token), key="generation.host")
    if not (config.model.path / "config.json").is_file():
        raise ConfigError(f"model.path = {config.model.path}: no config.json there; expected a model's folder")
    _import_engine(config)
    if arguments.check:
        return 0
    if not arguments.standalone:
        config = with_redis(config)
    import_module("services.generation.endpoint.serving").require_safe_host(config)
    if arguments.standalone:
        asyncio.run(_serve_clients(config, arguments.policy_version))
        return 0
    sealer = Sealer(Writer.GENERATION, key or record_key(config.run, Writer.GENERATION))
    return asyncio.run(_serve(config, arguments.name, token, sealer))


def _import_engine(config: Config) -> None:
    """Torch and transformers, or vLLM too: here they hold up no event loop. ConfigError: it cannot serve this run."""
    try:
        from tppo.models.denormals import flush_denormals

        flush_denormals()
        build = import_module("services.generation.build")
        spare_imports_from_collection()
        build.check_engine(config)
    except ImportError as error:
        raise ConfigError(
            f"generation.engine = {config.generation.engine!r} with {sys.executable}: {error}; expected an environment "
            "that has the engine's packages, named by generation.python: docs/vllm.md"
        ) from None


async def _serve_clients(config: Config, policy_version: int) -> None:
    from services.generation.build import running_engine, update_from
    from services.generation.endpoint.serving import serving_endpoint
    from services.generation.fleet.free_slots import FreeSlots

    stopping = asyncio.Event()
    on_stop_signal(stopping.set)
    async with running_engine(config) as engine:
        await engine.update_weights(await asyncio.to_thread(update_from, config, policy_version))
        async with serving_endpoint(config, engine, FreeSlots(engine.num_slots)) as endpoint:
            print(json.dumps({"endpoint": endpoint}), flush=True)
            await stopping.wait()
    leave_threads()


def _require_one_source(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """Of the configuration: the file, or the dashboard of a run that goes on."""
    joins, has_file = arguments.join is not None, arguments.token_file is not None
    if joins == bool(arguments.config) or (has_file and not joins):
        parser.error("expected the run's TOML file, or --join ADDRESS and --token-file FILE")
    if joins and not has_file and not token_from_environment(Service.GENERATION):
        variables = f"{Service.GENERATION.variable} or {TOKEN_VARIABLE}"
        parser.error(
            f"--join {arguments.join}: no token; expected --token-file FILE, or {variables} in the environment"
        )
    if joins and arguments.standalone:
        parser.error("--standalone serves without a run; expected the run's TOML file in place of --join")


def _configured(arguments: argparse.Namespace) -> tuple[Config, Token, str]:
    """By the run's file; the token is that of the environment, and may be empty; the key is found later."""
    return config_from_arguments(arguments), token_from_environment(Service.GENERATION), ""


def _joined(arguments: argparse.Namespace) -> tuple[Config, Token, str]:
    """By the run's dashboard, which the token opens; the learner brings the same one. Last, the key of the role."""
    given = arguments.token_file
    token = token_from_environment(Service.GENERATION) if given is None else joining.read_token(given)
    invited = joining.invitation(arguments.join, token)
    overrides = [*arguments.overrides, *([f'redis.url="{arguments.redis}"'] if arguments.redis else [])]
    config = joining.joined_config(invited, overrides)
    log.info("joins the run %r of %s", config.run.name, arguments.join)
    watched = token if given is None else RotatingToken(token, given, lambda: joining.read_token(given))
    return config, watched, invited.record_key


async def _serve(config: Config, name: str, given_token: Token, sealer: Sealer) -> int:
    exporter = Exporter(GENERATION_METRICS, run=config.run.name, service=name)
    with serving(config.prometheus, exporter, token=rotating_metrics_token()):
        token = given_token or served_token(config.run.path, Service.GENERATION)
        exit_code = await _serve_requests(config, name, exporter, token=token, sealer=sealer)
    leave_threads(exit_code)  # here, since the event loop's own end waits for them


async def _serve_requests(config: Config, name: str, exporter: Exporter, *, token: Token, sealer: Sealer) -> int:
    from services.generation.build import build_handover, build_worker, running_engine, served_weights, weight_server
    from services.generation.endpoint.serving import serving_endpoint
    from services.generation.fleet.fleet_pace import FleetPace
    from services.generation.fleet.free_slots import FreeSlots
    from services.generation.service import WindowHandler
    from services.generation.weights.weight_intake import WeightIntake
    from services.generation.weights.weight_proof import DisprovedWeightsError
    from tppo.models.device import torch_device

    torch_device(config.generator_placement)  # refused before anybody is waited for
    run = config.run.name
    async with connected(config.redis.url) as client, AsyncExitStack() as stack:
        announcer = Announcer(client, exporter, run=run, name=name, kind="generation")
        async with announcer.loading():
            engine = await stack.enter_async_context(running_engine(config))
        weights, slots = served_weights(config, engine), FreeSlots(engine.num_slots)
        weights.while_disproved = slots.held
        if config.generation.weight_update == "between_windows":
            weights.while_updating = slots.held
        announced = partial(announced_weights, client, run)
        intake = WeightIntake(
            weights,
            announced,
            run=run,
            name=name,
            token=token,
            sleep=config.engine_sleep,
            shares_memory=config.generation.share_weight_memory,
        )
        async with (
            weight_server(intake, config.generation, token=token) as address,
            serving_endpoint(config, engine, slots) as endpoint,
        ):
            streams = RedisStreams(client, run=run, lease_seconds=config.redis.lease_seconds, seal=sealer.seal)
            announcer.serves_at(address)
            pace = FleetPace(name, config.generation.max_window_seconds, lease_seconds=config.redis.lease_seconds)
            handover = build_handover(config, engine, pace)
            handler = WindowHandler(name, engine, weights, announced, free_slots=slots, handover=handover, pace=pace)

            async def announce(status: Mapping[str, object]) -> None:
                guests = {"num_guests": slots.num_guests, "num_waiting_guests": slots.num_waiting}
                await announcer.announce({**status, "endpoint": endpoint, **guests})

            watching = pace.observing(announce, partial(present, client, run))
            worker = build_worker(config, name, streams.window_requests, handler, watching, hand_over=handover.end)
            weights.on_refusal = worker.stop
            on_stop_signal(worker.stop)  # before the address is known: who has read it may end this process at once
            log.info("%s takes weights at %s", name, address)
            await run_until_signalled(worker, announcer)
            if weights.is_disproved:  # it leaves the run, and the reason stays
                await until_redis_answers(lambda: announcer.announce(worker.status()), "announcing the end")
    if isinstance(weights.refusal, DisprovedWeightsError):
        log.error("%s is out of the run: %s, after the weights were sent again", name, weights.refusal)
        return GAVE_UP_EXIT_CODE
    if weights.refusal is not None:
        raise ConfigError(f"model.path = {config.model.path}: {weights.refusal}")
    if weights.failure is not None:
        raise weights.failure
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
