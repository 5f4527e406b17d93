"""Users' functions as they were written for other trainers, called with our request."""

import inspect
import json
from collections.abc import Callable

from tppo.rollout import RewardRequest

VERL_PARAMETERS = ("data_source", "solution_str", "ground_truth", "extra_info")


def adapted(function: Callable[..., object], spec: str) -> Callable[[RewardRequest], object]:
    """The function as one of a request. Raises ValueError when its parameters are of no known signature."""
    signature = inspect.signature(function)
    try:
        signature.bind(**dict.fromkeys(VERL_PARAMETERS))
    except TypeError:
        raise ValueError(
            f"reward function {spec!r}: its parameters are {signature}; expected ({', '.join(VERL_PARAMETERS)})"
        ) from None
    return lambda request: function(**_verl_arguments(request))


def _verl_arguments(request: RewardRequest) -> dict[str, object]:
    return {
        "data_source": request.data_source,
        "solution_str": request.response,
        "ground_truth": request.ground_truth,
        "extra_info": json.loads(request.extra_info or "{}"),
    }
