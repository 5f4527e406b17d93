"""Reward functions by their name in the configuration: a built-in, or `path/to/file.py:name`.

A built-in's time is bounded by the length of the response, so it runs inside the service; a user's function may do
anything, so it runs in a worker that can be killed.
"""

import contextlib
import functools
import importlib.util
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

from services.reward.answers import is_boxed_match, is_exact_match
from services.reward.outcome import cause_of, outcome_of_call
from services.reward.signatures import adapted
from tppo.rollout import RewardRequest

WARM_UP = RewardRequest(
    *("warm-up", 0, "math", ""),
    response=r"\boxed{\frac{\sqrt{2}x^2-3(y+1)}{2}+\sin x}",
    ground_truth=r"\frac{x^2}{\sqrt{2}}-\frac{3y}{2}-1.5+\sin x",
)
RewardFunction = Callable[[RewardRequest], object]  # its result is for `outcome_of`, or awaitable


def exact(request: RewardRequest) -> float:
    """1 when the text after the last '#' is the ground truth."""
    return float(is_exact_match(request.response, request.ground_truth))


def boxed(request: RewardRequest) -> float:
    r"""1 when the last `\boxed{}` holds the ground truth."""
    return float(is_boxed_match(request.response, request.ground_truth))


def _math() -> RewardFunction:
    """1 when the boxed answer has the value of the ground truth; abstains when the ground truth cannot be read."""
    try:
        from services.reward.mathematics.verifier import is_correct
    except ImportError as error:
        raise ValueError(f"reward function 'math': {error}; expected pip install 'tppo[reward]'") from error

    def math(request: RewardRequest) -> float | None:
        verdict = is_correct(request.response, request.ground_truth)
        return None if verdict is None else float(verdict)

    return math


INLINE: dict[str, RewardFunction] = {"exact": exact, "boxed": boxed}
IN_WORKER: dict[str, Callable[[], RewardFunction]] = {"math": _math}


def runs_inline(spec: str) -> bool:
    """Whether the function is a built-in whose time is bounded."""
    return spec in INLINE


def load(spec: str) -> RewardFunction:
    """The function that a name in the configuration stands for. Raises ValueError with one sentence."""
    if spec in INLINE:
        return INLINE[spec]
    if spec in IN_WORKER:
        return IN_WORKER[spec]()
    file, colon, name = spec.rpartition(":")
    if not colon or not file.endswith(".py"):
        raise ValueError(
            f"reward function {spec!r}: expected {', '.join((*INLINE, *IN_WORKER))} or path/to/file.py:name"
        )
    function = getattr(_module(Path(file)), name, None)
    if not callable(function):
        raise ValueError(f"{file}: has no function {name!r}")
    return adapted(function, spec)


def preload(specs: Sequence[str]) -> None:
    """Load the built-ins among the functions, and let them fill their caches: workers forked after that share both."""
    for spec in specs:
        if spec in IN_WORKER:
            with contextlib.suppress(ValueError):  # a worker tells it again, to someone who listens
                outcome_of_call(IN_WORKER[spec](), WARM_UP)


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
