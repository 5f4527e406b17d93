"""How many tokens a model can look at: what its config.json says of positions, in any of the forms that models use."""

from collections.abc import Iterator, Mapping
from typing import Any


def context_length(config: Any) -> int | None:
    """Of a configuration of transformers, the scaling of its rotary embedding included; None where it has no limit."""
    text = config.get_text_config()
    limit = getattr(text, "max_position_embeddings", None)
    if not isinstance(limit, int) or limit < 1:
        return None
    return max([limit, *_scaled(getattr(text, "rope_parameters", None) or {}, limit)])


def _scaled(rope: Mapping[str, Any], limit: int) -> Iterator[int]:
    """What is to be reached by scaling; YaRN's models name the length before it in `max_position_embeddings` too."""
    for one in (rope, *rope.values()):  # some models have a table for each type of layer
        if isinstance(one, Mapping) and isinstance(factor := one.get("factor"), int | float):
            yield int(factor * (one.get("original_max_position_embeddings") or limit))
