"""Functions in users' Python files, as they were written for other trainers, each called with one request of ours.

verl       compute_score(data_source, solution_str, ground_truth, extra_info) -> number | {"score": ...}
TRL        reward_func(prompts, completions, **columns) -> [number | None]          lists of one
OpenRLHF   reward_func(queries, prompts, labels, **kwargs) -> tensor | {"rewards", "scores", "extra_logs"}
"""

import functools
import importlib.util
import inspect
import json
import re
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from tppo.rollout import RewardRequest
from tppo.scoring.outcome import cause_of

VERL_PARAMETERS = ("data_source", "solution_str", "ground_truth", "extra_info")
OPENRLHF_PARAMETERS = ("queries", "prompts", "labels")
GROUND_TRUTH_COLUMNS = ("ground_truth", "solution", "answer", "label")  # as TRL's data sets call it
SUM = re.compile(r"[+*]")  # in the name of a file: a sum, more often than a file
INDEXED_TEXT = "string indices must be integers"  # what Python says of text["content"]

UserFunction = Callable[..., Any]


def function_of_file(spec: str) -> Callable[[RewardRequest], object]:
    """The function `path/to/file.py:name` as one of a request. Raises ValueError with one sentence."""
    return adapted(_function(spec), spec)


def is_coroutine_function(spec: str) -> bool:
    """Whether the function `path/to/file.py:name` is declared with `async def`. Raises ValueError, as above."""
    function = _function(spec)
    return any(map(inspect.iscoroutinefunction, (function, getattr(function, "__call__", None))))  # noqa: B004


def _function(spec: str) -> UserFunction:
    file, _, name = spec.rpartition(":")
    function: UserFunction | None = getattr(_module(Path(file)), name, None)
    if not callable(function):
        raise ValueError(f"{file}: has no function {name!r}; expected {_functions_in(Path(file))}")
    return function


def _functions_in(path: Path) -> str:
    """Those that the file defines itself."""
    module = _module(path)
    own = [name for name, one in vars(module).items() if getattr(one, "__module__", "") == module.__name__]
    return f"one of {', '.join(own)}" if own else "a function in it"


@functools.cache
def _module(path: Path) -> ModuleType:
    """The executed file; its folder is importable, as it is for a script."""
    if not path.is_file():
        hint = ', which stands in quotes in a sum, as in 0.9*math + 0.1*"file.py:name"' if SUM.search(str(path)) else ""
        raise ValueError(f"{path}: no such file; expected a Python file with the reward function{hint}")
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


def adapted(function: UserFunction, spec: str) -> Callable[[RewardRequest], object]:
    """The function as one of a request. Raises ValueError when its parameters are of no known signature."""
    signature = inspect.signature(function)
    if "completions" in signature.parameters:
        return _trl(function, signature)
    if set(OPENRLHF_PARAMETERS) <= set(signature.parameters):
        return lambda request: _then(function(**_openrlhf_arguments(request)), _openrlhf_result)
    try:
        signature.bind(**dict.fromkeys(VERL_PARAMETERS))
    except TypeError:
        raise ValueError(
            f"reward function {spec!r}: its parameters are {signature}; expected ({', '.join(VERL_PARAMETERS)}), "
            "or those of TRL (completions, ...) or OpenRLHF (queries, prompts, labels)"
        ) from None
    return lambda request: function(**_verl_arguments(request))


def _extra_info(request: RewardRequest) -> dict[str, Any]:
    extra_info: dict[str, Any] = json.loads(request.extra_info or "{}")
    return extra_info


def _verl_arguments(request: RewardRequest) -> dict[str, object]:
    return {
        "data_source": request.data_source,
        "solution_str": request.response,
        "ground_truth": request.ground_truth,
        "extra_info": _extra_info(request),
    }


def _openrlhf_arguments(request: RewardRequest) -> dict[str, list[str]]:
    """A query is the prompt with the response behind it."""
    return {
        "queries": [request.prompt + request.response],
        "prompts": [request.prompt],
        "labels": [request.ground_truth],
    }


def _openrlhf_result(result: object) -> object:
    """`rewards` is the score; `scores` and the logs are components."""
    if not isinstance(result, Mapping):
        return _only(result)
    logs = {"scores": result.get("scores"), **result.get("extra_logs", {})}
    components = {key: _only(values) for key, values in logs.items() if values is not None}
    return {**components, "score": _only(result["rewards"])}


def _trl(function: UserFunction, signature: inspect.Signature) -> Callable[[RewardRequest], object]:
    """Completions as texts; as lists of messages when the function indexes them so."""
    takes_any = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in signature.parameters.values())

    def call(request: RewardRequest) -> object:
        columns = _trl_columns(request)
        arguments = {key: [entry] for key, entry in columns.items() if takes_any or key in signature.parameters}
        try:
            return _then(function(**arguments), _only)
        except TypeError as error:
            if INDEXED_TEXT not in str(error):
                raise
        for key, role in (("prompts", "user"), ("completions", "assistant")):
            if key in arguments:
                arguments[key] = [[{"role": role, "content": columns[key]}]]
        return _then(function(**arguments), _only)

    return call


def _trl_columns(request: RewardRequest) -> dict[str, Any]:
    """The columns of the data row by the names of functions' parameters; those of extra_info win."""
    return {
        **dict.fromkeys(GROUND_TRUTH_COLUMNS, request.ground_truth),
        "data_source": request.data_source,
        **_extra_info(request),
        "prompts": request.prompt,
        "completions": request.response,
    }


def _only(results: Any) -> object:
    """The result for the one response."""
    if not isinstance(results, Sequence) and not hasattr(results, "__getitem__"):
        raise TypeError(f"the function returned {results!r:.200}; expected one reward for each response")
    if len(results) != 1:
        raise ValueError(f"the function returned {len(results)} rewards for 1 response")
    one: object = results[0]
    return one


def _then(result: object, unpack: Callable[[Any], object]) -> object:
    """`unpack(result)`, once it is there."""
    return _unpacked(result, unpack) if inspect.isawaitable(result) else unpack(result)


async def _unpacked(result: Awaitable[object], unpack: Callable[[Any], object]) -> object:
    return unpack(await result)
