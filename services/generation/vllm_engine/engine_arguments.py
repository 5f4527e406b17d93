"""vLLM's engine arguments: what RL needs, what the configuration derives, and what the user passes through."""

import dataclasses
import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from tppo.config import Config, ConfigError
from tppo.config.sections.generation import GenerationSection
from tppo.models.context_length import require_one_rotary_table

OWNED: Mapping[str, str] = {
    "model": "model.path",
    "tokenizer": "",
    "skip_tokenizer_init": "",
    "trust_remote_code": "",
    "load_format": "",
    "generation_config": "",
    "seed": "",
    "logprobs_mode": "",
    "logits_processors": "",
    "override_generation_config": "generation.temperature",
    "worker_extension_cls": "",
    "weight_transfer_config": "",
    "stream_interval": "",
    "enable_lora": "actor.lora_rank",
    "max_lora_rank": "actor.lora_rank",
    "max_loras": "",
    "dtype": "generation.compute_dtype",
    "max_model_len": "run.max_prompt_length and run.max_response_length",
    "max_num_seqs": "generation.num_slots",
}
"""Those that cannot be passed through, each with the key that decides it; without a key: what training needs."""
BACKEND = "tppo-file"  # of weight updates, as vLLM knows it
GENERATOR_PID = "TPPO_GENERATOR_PID"
"""Variable by which vLLM's processes know whose they are; the generator itself begins without it."""
WORKER_MODULE = "services.generation.vllm_engine.worker"
LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # for which vLLM makes room
PROBE_ROWS = 8  # beside the windows
LEAST_BATCHED_TOKENS = 2048  # of a step, which is vLLM's own number
KV_CACHE_BYTES_ON_CPU = (64 << 20, 8 << 30)
"""Least and most that a CPU engine takes unless it is set; vLLM's own default is most of the machine's memory."""

ENVIRONMENT: Mapping[str, str] = {
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
}
ENVIRONMENT_ON_CPU: Mapping[str, str] = {
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # the machine's cores are the learner's, too
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine's process computes itself, instead of in another one
    "TORCH_COMPILE_DISABLE": "1",  # else even an eager engine runs a C++ compiler before its first token
}
"""Defaults of vLLM's environment; what the user has set stays."""


def passed_through(table: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """`generation.vllm`, once each name is one of vLLM's, and not one that is decided here. Raises `ConfigError`."""
    for name, value in table.items():
        key = f"generation.vllm.{name} = {value!r}"
        if name in OWNED:
            instead = f"expected {OWNED[name]} instead" if OWNED[name] else "expected no such key, as training needs it"
            raise ConfigError(f"{key}: the generator sets {name} itself; {instead}")
        if name not in known:
            close = difflib.get_close_matches(name, known, n=3) or sorted(known)
            raise ConfigError(f"{key}: vLLM has no such engine argument; expected one of {', '.join(close)}")
    return dict(table)


def prepare_environment(section: GenerationSection, *, is_cpu: bool) -> None:
    """Before vLLM is imported."""
    defaults = {**ENVIRONMENT, **(ENVIRONMENT_ON_CPU if is_cpu else {})}
    if section.vllm.get("enforce_eager", True) is False:
        defaults.pop("TORCH_COMPILE_DISABLE", None)
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    os.environ[GENERATOR_PID] = str(os.getpid())


def engine_arguments(config: Config, *, seed: int) -> Any:
    """vLLM's `AsyncEngineArgs` of a run. Raises `ConfigError` for what does not fit.

    `seed` is that of requests without one; two generators need different ones, or they draw the same numbers.
    """
    from vllm.config.weight_transfer import WeightTransferConfig
    from vllm.engine.arg_utils import AsyncEngineArgs

    known = {field.name: field for field in dataclasses.fields(AsyncEngineArgs)}
    _require_one_rotary_table(config)
    section = config.generation
    given = passed_through(section.vllm, known)
    derived: dict[str, Any] = {
        "enable_prefix_caching": True,
        "disable_log_stats": True,  # our own counts are read instead
        **(_on_cpu(config, given) if is_on_cpu() else {"enable_sleep_mode": config.engine_sleep != "off"}),
        **given,
        "model": str(config.model.path),
        "skip_tokenizer_init": True,
        "load_format": "dummy",  # the learner sends the weights
        "generation_config": "vllm",  # the model's folder adds no sampling parameters, nor stop tokens
        "seed": seed,
        "logprobs_mode": "processed_logprobs",  # of the distribution that is sampled from, its temperature included
        "dtype": config.generator_placement.compute_dtype,
        "max_model_len": row_capacity(config),
        "max_num_seqs": -(-section.num_slots // int(given.get("data_parallel_size", 1))) + PROBE_ROWS,
        "worker_extension_cls": f"{WORKER_MODULE}.WorkerExtension",
        "weight_transfer_config": WeightTransferConfig(backend=BACKEND),
        **_of_adapters(config),
    }
    try:
        return AsyncEngineArgs(**derived)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"generation.vllm: vLLM refuses its arguments: {first_sentence(error)}") from None


def _of_adapters(config: Config) -> dict[str, Any]:
    """The body is vLLM's own, out of the model's folder, as the learner sends adapters alone."""
    if not (rank := config.actor.lora_rank):
        return {}
    if rank > LORA_RANKS[-1]:
        raise ConfigError(f"actor.lora_rank = {rank}: vLLM takes adapters up to rank {LORA_RANKS[-1]}; expected that")
    room = next(one for one in LORA_RANKS if one >= rank)
    return {"enable_lora": True, "max_lora_rank": room, "max_loras": 1, "load_format": "auto"}


def row_capacity(config: Config) -> int:
    """Tokens of a prompt and its response at most."""
    return config.run.max_prompt_length + config.run.max_response_length


def _require_one_rotary_table(config: Config) -> None:
    """vLLM uses one table for all rows; transformers, and so the learner, another one for those beyond a length."""
    try:
        require_one_rotary_table(
            AutoConfig.from_pretrained(config.model.path, local_files_only=True), row_capacity(config)
        )
    except ValueError as error:
        raise ConfigError(f"model.path = {config.model.path}: {error}") from None


def is_on_cpu() -> bool:
    """Whether the installed vLLM computes on the CPU."""
    from vllm.platforms import current_platform

    return bool(current_platform.is_cpu())


def first_sentence(error: Exception) -> str:
    """Of an error, which may be pydantic's of many lines."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[1:3] if len(lines) > 2 and "validation error" in lines[0] else lines[:1])


def _on_cpu(config: Config, given: Mapping[str, Any]) -> dict[str, Any]:
    """What makes a CPU engine start in seconds, and beside a learner."""
    is_alone = all(int(given.get(f"{kind}_parallel_size", 1)) == 1 for kind in ("tensor", "pipeline"))
    return {
        "enforce_eager": True,
        "kv_cache_memory_bytes": kv_cache_bytes(config),
        # Where a prefill is split over steps, vLLM 0.32 ends at the first request with a seed: "CPU Generator does not
        # use offset". So each is one step, which must have room for the longest.
        "enable_chunked_prefill": False,
        "max_num_batched_tokens": max(LEAST_BATCHED_TOKENS, row_capacity(config)),
        **({"distributed_executor_backend": "uni"} if is_alone else {}),
    }


def kv_cache_bytes(config: Config) -> int:
    """Memory for the KV caches of all slots at their full length, within bounds."""
    model = AutoConfig.from_pretrained(Path(config.model.path), local_files_only=True).get_text_config()
    num_heads: int = getattr(model, "num_key_value_heads", None) or model.num_attention_heads
    head_dim: int = getattr(model, "head_dim", None) or model.hidden_size // model.num_attention_heads
    num_bytes = 2 if config.generator_placement.compute_dtype == "bfloat16" else 4
    of_token: int = 2 * model.num_hidden_layers * num_heads * head_dim * num_bytes
    num_tokens = config.generation.num_slots * row_capacity(config)
    least, most = KV_CACHE_BYTES_ON_CPU
    return min(max(of_token * num_tokens, least), most)
