"""How many tokens a model can look at: what its config.json says of positions, in any of the forms that models use."""

from collections.abc import Iterator, Mapping
from typing import Any

POSITION_KEYS = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "n_ctx",
    "max_sequence_length",
    "max_seq_length",
    "max_target_positions",
    "model_max_length",
)
"""Names of the number of positions in config.json, the usual one first."""


def position_key(config: Any) -> str | None:
    """Which key of the configuration limits its positions; None where it has no limit."""
    text = config.get_text_config()
    found = (key for key in POSITION_KEYS if isinstance(limit := getattr(text, key, None), int) and limit > 0)
    return next(found, None)


def context_length(config: Any) -> int | None:
    """Of a configuration of transformers, the scaling of its rotary embedding included; None where it has no limit."""
    key = position_key(config)
    if key is None:
        return None
    text = config.get_text_config()
    limit = int(getattr(text, key))
    return max([limit, *_scaled(getattr(text, "rope_parameters", None) or {}, limit)])


def rotary_border(config: Any) -> tuple[str, int] | None:
    """(rope_type, length) where the rotary embedding of all tokens changes when a row grows beyond that length.

    Such a row's earlier tokens get other log-probabilities than those they were sampled with, and so do shorter rows
    that share a call with it.
    """
    text = config.get_text_config()
    limit = context_length(config)
    borders = []
    for rope in _tables(getattr(text, "rope_parameters", None) or {}):
        kind = str(rope.get("rope_type", "default"))
        of_text = "original_max_position_embeddings" if kind == "longrope" else "max_position_embeddings"
        original = rope.get("original_max_position_embeddings") if kind == "longrope" else None
        if kind == "longrope" or "dynamic" in kind:
            borders.append((kind, int(original or getattr(text, of_text, None) or limit or 0)))
    return min(borders, key=lambda border: border[1], default=None)


def require_one_rotary_table(config: Any, capacity: int) -> None:
    """Raise ValueError where rows of `capacity` tokens are beyond the border at which their embedding changes."""
    border = rotary_border(config)
    if border is not None and border[1] < capacity:
        raise ValueError(
            f"{config.model_type} has rope_type '{border[0]}', which turns all tokens of a row otherwise once it is "
            f"longer than {border[1]}; expected at most that many for prompt and response, and not {capacity}"
        )


def _tables(rope: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Some models have a table for each type of layer."""
    for one in (rope, *rope.values()):
        if isinstance(one, Mapping):
            yield one


def _scaled(rope: Mapping[str, Any], limit: int) -> Iterator[int]:
    """What is to be reached by scaling; YaRN's models name the length before it in `max_position_embeddings` too."""
    for one in _tables(rope):
        if isinstance(factor := one.get("factor"), int | float):
            yield int(factor * (one.get("original_max_position_embeddings") or limit))
