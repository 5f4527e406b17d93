"""What of a network stays in float32 where it computes in another type: learner and generators must agree."""

import copy
import re
from collections.abc import Mapping
from typing import Any


def names_in_float32(network: Any, compute_dtype: Any) -> frozenset[str]:
    """Of the parameters and buffers that transformers keeps in float32 when it loads the network in this type of torch.

    Routers of mixtures of experts are such; most networks have none.
    """
    in_float32: Mapping[str, Any] = network._get_dtype_plan(compute_dtype)
    patterns = [name.replace("*", ".*") for name in in_float32]
    return frozenset(
        name for name in network.state_dict(keep_vars=True) if any(re.search(pattern, name) for pattern in patterns)
    )


def cast_constants(network: Any, compute_dtype: Any) -> None:
    """Give the buffers that no file holds the types which transformers makes them in for this type of torch.

    Positions of XGLM, and decays of MiniMax: in float32 they would be computed with in float32, or not at all. Those
    that it keeps in float32, such as the frequencies of RoPE, stay so.
    """
    import torch  # here, as those who only name types need not wait for it

    with torch.device("meta"):
        made = type(network)._from_config(copy.deepcopy(network.config), dtype=compute_dtype)
    types = {name: buffer.dtype for name, buffer in made.named_buffers()}
    stored = network.state_dict(keep_vars=True)
    for name, buffer in network.named_buffers():
        if name not in stored and buffer.is_floating_point():
            buffer.data = buffer.data.to(types.get(name, buffer.dtype))
