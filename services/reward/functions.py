"""Reward functions by their name in the configuration: a built-in, or `path/to/file.py:name`.

A built-in's time is bounded by the length of the response, so it runs inside the service; a user's function may do
anything, so it runs in a worker that can be killed.
"""

import functools
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from services.reward.answers import is_boxed_match, is_exact_match
from services.reward.outcome import cause_of
from services.reward.signatures import adapted
from tppo.rollout import RewardRequest

RewardFunction = Callable[[RewardRequest], object]  # its result is for `outcome_of`, or awaitable


def exact(request: RewardRequest) -> float:
    """1 when the text after the last '#' is the ground truth."""
    return float(is_exact_match(request.response, request.ground_truth))


def boxed(request: RewardRequest) -> float:
    r"""1 when the last `\boxed{}` holds the ground truth."""
    return float(is_boxed_match(request.response, request.ground_truth))


BUILT_IN: dict[str, RewardFunction] = {"exact": exact, "boxed": boxed}


def runs_inline(spec: str) -> bool:
    """Whether the function is a built-in whose time is bounded."""
    return spec in BUILT_IN


def load(spec: str) -> RewardFunction:
    """The function that a name in the configuration stands for. Raises ValueError with one sentence."""
    if spec in BUILT_IN:
        return BUILT_IN[spec]
    file, colon, name = spec.rpartition(":")
    if not colon or not file.endswith(".py"):
        raise ValueError(f"reward function {spec!r}: expected {', '.join(BUILT_IN)} or path/to/file.py:name")
    function = getattr(_module(Path(file)), name, None)
    if not callable(function):
        raise ValueError(f"{file}: has no function {name!r}")
    return adapted(function, spec)


def check(spec: str) -> None:
    """Raise ValueError with one sentence when the function cannot be loaded; a user's file is executed."""
    load(spec)


@functools.cache
def _module(path: Path) -> ModuleType:
    """The executed file; its folder is importable, as it is for a script."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file; expected a Python file with the reward function")
    sys.path.insert(0, str(path.resolve().parent))
    found = importlib.util.spec_from_file_location(f"reward_function_file_{path.stem}", path)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules[module.__name__] = module  # dataclasses in the file look their module up
    try:
        found.loader.exec_module(module)
    except Exception as error:  # other people's code
        raise ValueError(f"{path}: does not load: {cause_of(error)}") from error
    return module
