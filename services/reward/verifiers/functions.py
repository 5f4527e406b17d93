"""Reward functions by their name in the configuration, ready to be called with a request."""

import contextlib
import functools
import importlib.util
import inspect
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from services.reward.outcome import cause_of, outcome_of_call
from services.reward.verifiers import gym
from services.reward.verifiers.built_in import BUILT_IN, RewardFunction
from services.reward.verifiers.expressions import Term, terms
from services.reward.verifiers.signatures import adapted
from services.reward.verifiers.sums import weighted_sum
from tppo.rollout import RewardRequest

WARM_UP = RewardRequest(
    *("warm-up", 0, "math", ""),
    response=r"\boxed{\frac{\sqrt{2}x^2-3(y+1)}{2}+\sin x}",
    ground_truth=r"\frac{x^2}{\sqrt{2}}-\frac{3y}{2}-1.5+\sin x",
)


@functools.cache
def load(spec: str) -> RewardFunction:
    """The function that a name in the configuration stands for. Raises ValueError with one sentence."""
    found = terms(spec)
    functions = [_function(term, spec) for term in found]
    if len(functions) == 1 and found[0].weight == 1.0:
        return functions[0]
    return functools.partial(weighted_sum, found, functions)


def check(spec: str) -> None:
    """Raise ValueError with one sentence when the function cannot be loaded; a user's file is executed."""
    load(spec)


def preload(specs: Sequence[str]) -> None:
    """Load the built-ins among the functions, and let them fill their caches: workers forked after that share both."""
    for spec in specs:
        with contextlib.suppress(ValueError):  # a worker tells it again, to someone who listens
            if not any(term.is_file for term in terms(spec)):
                outcome_of_call(load(spec), WARM_UP)


def _function(term: Term, spec: str) -> RewardFunction:
    if term.is_file:
        return _from_file(term.name)
    if term.gym_task:
        return gym.verifier(term.gym_task)
    if term.name not in BUILT_IN:
        expected = f"{', '.join(BUILT_IN)}, reasoning_gym:task, path/to/file.py:name or grpc:name"
        raise ValueError(f"reward function {spec!r}: expected {expected}")
    make = BUILT_IN[term.name].make
    try:
        inspect.signature(make).bind(*term.arguments, **term.options)
        return make(*term.arguments, **term.options)
    except (TypeError, ValueError) as error:
        raise ValueError(f"reward function {spec!r}: {term.name}: {error}") from error


def _from_file(spec: str) -> RewardFunction:
    file, _, name = spec.rpartition(":")
    function = getattr(_module(Path(file)), name, None)
    if not callable(function):
        raise ValueError(f"{file}: has no function {name!r}")
    return adapted(function, spec)


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
