"""Which models have the blocks of Llama: those that our own fast paths compute, in the learner and in a generator."""

from typing import Any

FAMILIES = frozenset({"qwen2", "qwen3", "llama"})
ROPE_TYPES = frozenset({"default", "linear", "llama3", "yarn"})  # those whose table does not depend on the row's length


def has_llama_blocks(config: Any) -> bool:
    """Whether a model of transformers' `config` attends to all tokens, rotates all channels and gates by SiLU."""
    if config.model_type not in FAMILIES:
        return False
    rope = config.rope_parameters or {}
    return (
        all(kind == "full_attention" for kind in getattr(config, "layer_types", None) or [])
        and rope.get("rope_type") in ROPE_TYPES
        and rope.get("partial_rotary_factor", 1.0) == 1.0
        and bool(config.hidden_act == "silu")
    )
