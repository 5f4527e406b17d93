"""Makes the engine that a configuration asks for."""

import logging

import torch
from transformers import AutoConfig, PreTrainedConfig

from services.generation.transformers_engine.decode_loop import UpdatePolicy
from services.generation.transformers_engine.decoder import Decoder
from services.generation.transformers_engine.engine import TransformersEngine
from services.generation.transformers_engine.general_decoder import GeneralDecoder
from services.generation.transformers_engine.llama_decoder import LlamaDecoder, is_supported
from tppo.config.schema import Config

log = logging.getLogger(__name__)


def build_engine(config: Config) -> TransformersEngine:
    """Reads the architecture from the model's folder; the weights come from the learner."""
    device = _device(config.model.device)
    capacity = config.run.max_prompt_length + config.run.max_response_length
    decoder = make_decoder(
        AutoConfig.from_pretrained(config.model.path, local_files_only=True),
        num_slots=config.generation.num_slots,
        capacity=capacity,
        dtype=getattr(torch, config.model.dtype),
        device=device,
    )
    policy = UpdatePolicy(
        in_flight=config.generation.weight_update == "in_flight",
        recompute_cache=config.generation.recompute_cache_on_update,
    )
    return TransformersEngine(
        decoder, num_slots=config.generation.num_slots, capacity=capacity, policy=policy, device=device
    )


def make_decoder(
    config: PreTrainedConfig, *, num_slots: int, capacity: int, dtype: torch.dtype, device: torch.device
) -> Decoder:
    """The fast path where it computes exactly what the model does, else the general one."""
    if is_supported(config):
        return LlamaDecoder(config, num_slots=num_slots, capacity=capacity, dtype=dtype, device=device)
    limit = getattr(config.get_text_config(), "max_position_embeddings", None)
    if limit is not None and limit < capacity:
        raise ValueError(f"{config.model_type} has {limit} positions; expected {capacity} for prompt and response")
    log.info("%s is served through its own forward pass, which is slower than the fast path", config.model_type)
    return GeneralDecoder(config, dtype=dtype, device=device)


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)
