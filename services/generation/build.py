"""What serves window requests, built from a configuration: the engine, the weight server and the worker."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import torch
from transformers import AutoConfig, PreTrainedConfig

from services.generation.engine import Engine
from services.generation.fleet.fleet_pace import FleetPace
from services.generation.fleet.handover import Handover
from services.generation.service import WindowHandler
from services.generation.transformers_engine.decoders.decoder import Decoder
from services.generation.transformers_engine.decoders.general import GeneralDecoder
from services.generation.transformers_engine.decoders.llama import LlamaDecoder, is_supported
from services.generation.transformers_engine.decoders.model_weights import weights_in
from services.generation.transformers_engine.engine import TransformersEngine
from services.generation.update_policy import UpdatePolicy
from services.generation.vllm_engine.engine_arguments import engine_arguments, prepare_environment
from services.generation.weights.adapter_body import AdapterBody, adapted_model
from services.generation.weights.served_weights import ServedWeights
from services.generation.weights.weight_intake import SERVICE_NAME, WeightIntake, registration
from services.generation.weights.weight_proof import looser_tolerance
from tppo.config import Config, ConfigError
from tppo.config.sections.generation import GenerationSection
from tppo.models.adapters import BODY_FILE
from tppo.models.context_length import context_length, require_one_rotary_table
from tppo.models.device import torch_device
from tppo.process.grpc_server import serving_grpc
from tppo.process.leased_worker import Announce, LeasedWorker, WorkerSettings
from tppo.security.authentication import Token
from tppo.streams import RequestQueue
from tppo.weights import WeightUpdate

log = logging.getLogger(__name__)


def build_handover(config: Config, engine: Engine, pace: FleetPace) -> Handover:
    """Cuts what takes too long, or is to end with the process."""
    num_ignored = config.algorithm.num_ignored_tail_tokens
    return Handover(engine, num_ignored_tail_tokens=num_ignored, bound_seconds=pace.bound_seconds)


def build_worker(
    config: Config,
    name: str,
    queue: RequestQueue,
    handler: WindowHandler,
    announce: Announce,
    *,
    hand_over: Callable[[], Awaitable[None]],
) -> LeasedWorker:
    """Isolates suspects: the engine runs in this process, so a request that kills it takes the others down too."""
    settings = WorkerSettings(
        name=name,
        lease_seconds=config.redis.lease_seconds,
        capacity=config.generation.num_slots + config.generation.num_prefetched,
        max_deliveries=config.redis.max_deliveries,
        isolates_suspects=True,
        hand_over_seconds=config.generation.hand_over_seconds,
    )
    return LeasedWorker(settings, queue, handler, announce, hand_over=hand_over)


@asynccontextmanager
async def weight_server(intake: WeightIntake, section: GenerationSection, *, token: Token) -> AsyncIterator[str]:
    """Runs the gRPC server that the learner calls; gives the address at which others reach it."""
    async with (
        serving_grpc(SERVICE_NAME, registration(intake), section, key="generation", token=token) as address,
        intake.streams.listening(section.host),
    ):
        yield address


def served_weights(config: Config, engine: Engine) -> ServedWeights:
    """The weights of the engine, and how far it may be from the learner."""
    section = config.generation
    return ServedWeights(
        engine,
        looser_tolerance(config.policy_placement, config.generator_placement),
        crosses=section.weight_update == "in_flight",
        recomputes=section.recompute_cache_on_update,
    )


def check_engine(config: Config) -> None:
    """What can be said of the engine before it starts. Raises ImportError, or `ConfigError`."""
    device = torch_device(config.generator_placement)
    if config.generation.engine == "vllm":
        prepare_environment(config.generation, is_cpu=device == "cpu")
        engine_arguments(config, seed=0)


@asynccontextmanager
async def running_engine(config: Config) -> AsyncIterator[Engine]:
    """The engine, until the end of the context. Raises `ConfigError` for a model that it cannot serve."""
    try:
        build: Callable[[Config], Engine] = build_vllm_engine if config.generation.engine == "vllm" else build_engine
        engine = await asyncio.to_thread(build, config)  # heartbeats go on
    except ConfigError:
        raise
    except (OSError, ValueError) as error:
        raise ConfigError(f"model.path = {config.model.path}: {error}") from None
    try:
        yield engine
    finally:
        await engine.close()


def build_vllm_engine(config: Config) -> Engine:
    """Starts vLLM's processes, which takes half a minute or so; not on an event loop."""
    check_engine(config)
    from services.generation.vllm_engine.engine import start_engine  # vLLM is installed where it serves

    return start_engine(config)


def build_engine(config: Config) -> TransformersEngine:
    """Reads the architecture from the model's folder; the weights come from the learner."""
    device = torch.device(torch_device(config.generator_placement))
    capacity = config.run.max_prompt_length + config.run.max_response_length
    decoder = make_decoder(
        AutoConfig.from_pretrained(config.model.path, local_files_only=True),
        num_slots=config.generation.num_slots,
        capacity=capacity,
        dtype=getattr(torch, config.generator_placement.compute_dtype),
        device=device,
    )
    policy = UpdatePolicy(
        in_flight=config.generation.weight_update == "in_flight",
        recompute_cache=config.generation.recompute_cache_on_update,
    )
    return TransformersEngine(
        decoder,
        num_slots=config.generation.num_slots,
        capacity=capacity,
        policy=policy,
        device=device,
        body=AdapterBody(config.model.path, getattr(torch, config.generator_placement.compute_dtype)),
        gather_seconds=config.generation.gather_seconds,
    )


def update_from(config: Config, policy_version: int) -> WeightUpdate:
    """The weights in `model.path`, as the learner would send them; of adapters, the sum with their body.

    Raises `ConfigError` where some are missing.
    """
    dtype, folder = getattr(torch, config.generator_placement.compute_dtype), config.model.path
    read = adapted_model if (folder / BODY_FILE).is_file() else weights_in
    try:
        tensors = read(folder, dtype)
    except (OSError, ValueError) as error:
        raise ConfigError(f"model.path = {folder}: {error}") from None
    return WeightUpdate(policy_version, incarnation=0, digest="", tensors=tensors)


def make_decoder(
    config: PreTrainedConfig, *, num_slots: int, capacity: int, dtype: torch.dtype, device: torch.device
) -> Decoder:
    """The fast path where it computes exactly what the model does, else the general one."""
    require_one_rotary_table(config, capacity)
    if is_supported(config):
        return LlamaDecoder(config, num_slots=num_slots, capacity=capacity, dtype=dtype, device=device)
    limit = context_length(config)
    if limit is not None and limit < capacity:
        raise ValueError(f"{config.model_type} has {limit} positions; expected {capacity} for prompt and response")
    log.info("%s is served through its own forward pass, which is slower than the fast path", config.model_type)
    return GeneralDecoder(config, dtype=dtype, device=device, capacity=capacity)
