"""Families of causal language models at tiny sizes: what tests and docs/models.md hold the probe against.

Most families share the names of their sizes; `FAMILIES` has what differs, and switches on what makes a family special
(windows shorter than the probe's rows, layers of each kind).
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedConfig

VOCABULARY = 64
WINDOW = 8
SIZES: Mapping[str, Any] = {
    "vocab_size": VOCABULARY,
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "embedding_size", "word_embed_proj_dim", "lru_width"), 32),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "n_inner", "d_ff", "ffn_hidden_size", "feed_forward_size"), 48),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "attention_heads"), 4),
    "num_key_value_heads": 2,
    "head_dim": 8,
    **dict.fromkeys(("sliding_window", "window_size", "attention_chunk_size", "attention_window_size"), WINDOW),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx"), 128),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "num_experts_per_token", "moe_k", "moe_topk"), 2),
    **dict.fromkeys(("n_shared_experts", "first_k_dense_replace", "n_group", "topk_group", "num_dense_layers"), 1),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "shared_intermediate_size"), 16),
    **dict.fromkeys(("kv_lora_rank", "q_lora_rank"), 16),
    **dict.fromkeys(("qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim", "rotary_dim"), 8),
    **dict.fromkeys(("mamba_d_state", "state_size", "ssm_state_size"), 8),
    **dict.fromkeys(("mamba_n_heads", "mamba_num_heads", "mamba_dt_rank", "time_step_rank"), 4),
    **dict.fromkeys(("mamba_d_head", "mamba_headdim", "mamba_head_dim"), 16),
    **dict.fromkeys(("mamba_n_groups", "mamba_ngroups", "n_groups", "n_mamba_heads"), 1),
    **dict.fromkeys(("linear_num_key_heads", "linear_num_value_heads"), 2),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim"), 8),
    **dict.fromkeys(("initializer_range", "init_std"), 0.2),
    **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
}
MIXED = ["sliding_attention", "full_attention"]
HYBRID = ["linear_attention", "full_attention"]

SIGHT: Mapping[str, Any] = {
    **{"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4},
    **{"image_size": 28, "patch_size": 14},
}


def sizes_of(model_type: str, sizes: Mapping[str, Any] = SIZES) -> dict[str, Any]:
    """Those that the type's configuration knows."""
    names = {field.name for field in dataclasses.fields(CONFIG_MAPPING[model_type])}
    return {key: value for key, value in sizes.items() if key in names}


class Family(NamedTuple):
    """A model type with what makes it special, and the sizes that differ from `SIZES`."""

    model_type: str
    parts: str = ""
    changes: Mapping[str, Any] = {}


FAMILIES: Mapping[str, Family] = {
    family.model_type: family
    for family in (
        Family("llama"),
        Family("qwen2"),
        Family("qwen3"),
        Family("smollm3", "layers without RoPE", {"no_rope_layers": [1, 0]}),
        Family("mistral", "sliding window"),
        Family("ministral", "sliding window", {"layer_types": MIXED}),
        Family("gemma", "embedding scale"),
        Family("gemma2", "sliding window, soft caps"),
        Family("gemma3_text", "sliding window", {"layer_types": MIXED}),
        Family(
            "gemma3",
            "sliding window, images",
            {"text_config": {**sizes_of("gemma3_text"), "layer_types": MIXED}, "vision_config": SIGHT},
        ),
        Family("phi", "partial rotary", {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}),
        Family("phi3", "sliding window"),
        Family("phimoe", "experts"),
        Family("gpt_oss", "experts, attention sinks, sliding window", {"layer_types": MIXED}),
        Family("olmo"),
        Family("olmo2"),
        Family("olmo3", "sliding window", {"layer_types": MIXED}),
        Family("olmoe", "experts"),
        Family("granite", "scaled logits", {"logits_scaling": 4.0, "residual_multiplier": 0.5}),
        Family("granitemoe", "experts"),
        Family("granitemoehybrid", "recurrent, experts", {"layer_types": HYBRID}),
        Family("glm", "partial rotary"),
        Family("glm4", "partial rotary"),
        Family("glm4_moe", "experts, partial rotary"),
        Family("deepseek_v2", "latent attention, experts", {"num_key_value_heads": 4}),
        Family("deepseek_v3", "latent attention, experts", {"num_key_value_heads": 4}),
        Family("falcon_h1", "recurrent", {"mamba_d_ssm": 64}),
        Family("bloom", "ALiBi"),
        Family("mpt", "ALiBi"),
        Family("falcon", "ALiBi", {"alibi": True}),
        Family("gpt2", "learned positions"),
        Family("gpt_neo", "local attention", {"attention_types": [[["global", "local"], 1]]}),
        Family("gpt_neox", "partial rotary"),
        Family("gptj", "partial rotary", {"rotary_dim": 4}),
        Family("codegen", "partial rotary", {"rotary_dim": 4}),
        Family("gpt_bigcode", "learned positions"),
        Family("opt", "learned positions"),
        Family("xglm", "sinusoidal positions"),
        Family("biogpt", "learned positions"),
        Family("stablelm", "partial rotary"),
        Family("persimmon", "partial rotary"),
        Family("nemotron", "partial rotary"),
        Family("starcoder2", "sliding window"),
        Family("cohere", "scaled logits"),
        Family("cohere2", "sliding window, scaled logits", {"layer_types": MIXED}),
        Family("exaone4", "sliding window", {"layer_types": MIXED}),
        Family("mixtral", "experts, sliding window"),
        Family("qwen2_moe", "experts"),
        Family("qwen3_moe", "experts"),
        Family("qwen3_next", "recurrent, experts", {"layer_types": HYBRID}),
        Family("qwen3_5_text", "recurrent", {"layer_types": HYBRID}),
        Family("llama4_text", "chunked attention, experts", {"layer_types": ["chunked_attention", "full_attention"]}),
        Family(
            "dbrx",
            "experts",
            {
                "attn_config": {"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 8.0},
                "ffn_config": {"ffn_hidden_size": 48, "moe_num_experts": 4, "moe_top_k": 2},
            },
        ),
        Family("jamba", "recurrent, experts", {"attn_layer_period": 2, "attn_layer_offset": 1}),
        Family("bamba", "recurrent", {"attn_layer_indices": [1]}),
        Family("zamba2", "recurrent, shared attention", {"layers_block_type": ["mamba", "hybrid"]}),
        Family("lfm2", "convolutions", {"layer_types": ["conv", "full_attention"]}),
        Family("recurrent_gemma", "recurrent, sliding window", {"block_types": ("recurrent", "attention")}),
        Family("nemotron_h", "recurrent", {"layers_block_type": ["linear_attention", "full_attention", "mlp"]}),
        Family("minimax", "recurrent, experts", {"layer_types": HYBRID}),
        Family("mamba", "recurrent"),
        Family("mamba2", "recurrent", {"head_dim": 16}),
        Family("falcon_mamba", "recurrent"),
        Family("rwkv", "recurrent", {"attention_hidden_size": 32}),
        Family("xlstm", "recurrent", {"hidden_size": 128}),
        Family("seed_oss"),
        Family("ernie4_5"),
        Family("hunyuan_v1_dense"),
        Family("apertus"),
        Family("arcee"),
        Family("helium"),
        Family("diffllama", "differential attention"),
        Family("nanochat", "soft caps"),
    )
}


def tiny_config(name: str, changes: Mapping[str, Any] = {}) -> PreTrainedConfig:
    """Of a family of the table; `changes` are other sizes than `SIZES`."""
    family = FAMILIES[name]
    config_class: Any = CONFIG_MAPPING[family.model_type]
    sizes = sizes_of(family.model_type, {**SIZES, **changes})
    config: PreTrainedConfig = config_class(**{**sizes, **family.changes})
    return config


def tiny_model(name: str, *, seed: int = 0) -> Any:
    """Random weights, norms and biases included, whose distributions are far from uniform."""
    torch.manual_seed(seed)
    model: Any = AutoModelForCausalLM.from_config(tiny_config(name), dtype=torch.float32)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()
