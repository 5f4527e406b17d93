"""Which weights of a network stay in float32 where it computes in another type: learner and generators must agree."""

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
