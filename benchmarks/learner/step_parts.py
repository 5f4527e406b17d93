"""What the parts of a training step take: functions by their own CPU time, and kinds of operations by torch's profiler.

Within the process of a checkout, which may be an older one: functions that it does not have are left out, and their
time is that of the function that calls them.
"""

import functools
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any

UPDATES, MEASUREMENTS = "learner.step.updates.", "learner.step.measurements."
FUNCTIONS: Mapping[str, tuple[tuple[str, str], ...]] = {
    "value model: values before the update": (
        (UPDATES + "value_update", "token_and_boundary_values"),
        ("learner.step.estimation.estimates", "token_and_boundary_values"),
        ("learner.estimates", "token_and_boundary_values"),
    ),
    "value model: forward pass of its training": (
        (UPDATES + "value_update", "token_values"),
        ("learner.value_update", "token_values"),
    ),
    "policy: log-probabilities before the update": (
        (UPDATES + "selection", "row_logprobs"),
        (UPDATES + "policy_update", "row_logprobs"),
        ("learner.policy_update", "row_logprobs"),
    ),
    "policy: forward pass of its training": (
        (UPDATES + "policy_update", "token_scores"),
        ("learner.policy_update", "token_scores"),
    ),
    "backward passes": (("torch", "Tensor.backward"),),
    "losses and selection of tokens": ((UPDATES + "policy_update", "train"), ("learner.policy_update", "train")),
    "clipping and optimizer": (
        (UPDATES + "optimization", "Optimization.update"),
        ("learner.optimization", "Optimization.update"),
    ),
    "rows as tensors": (("learner.step.trainer", "gather"), ("learner.trainer", "gather")),
    "advantages and masks": (("learner.step.trainer", "estimate"), ("learner.trainer", "estimate")),
    "metrics": (
        (MEASUREMENTS + "metrics", "sampled_metrics"),
        (MEASUREMENTS + "metrics", "estimate_metrics"),
        (MEASUREMENTS + "response_diagnostics", "metrics"),
        (MEASUREMENTS + "engine_check", "EngineCheck.metrics"),
    ),
    "copy of the weights for the engine check": ((MEASUREMENTS + "engine_check", "EngineCheck.keep_weights"),),
    "trace": (("learner.step.trainer", "trace_table"), ("learner.trainer", "trace_table")),
}
REST = "the rest"
PROBE = "beside the step: the probe of the weights"
SNAPSHOT = "beside the step: the copy that is published"
BESIDE = {
    PROBE: (("learner.step.trainer", "Trainer.probe"),),
    SNAPSHOT: (("learner.step.trainer", "Trainer.policy_in_memory"),),
}
OPERATIONS: Mapping[str, tuple[str, ...]] = {
    "matrix products": ("aten::mm", "aten::addmm"),
    "attention": ("scaled_dot_product", "aten::bmm", "aten::baddbmm", "aten::_softmax", "_Attention"),
    "norms, rotations and gates": (
        *("_RmsNorm", "_Gated", "aten::pow", "aten::rsqrt", "aten::silu", "aten::sigmoid"),
        *("aten::linalg_vector_norm", "aten::addcmul"),
    ),
    "log-softmax": ("aten::_log_softmax",),
}


class Parts:
    """Seconds of CPU time of each part, without those of the parts that it calls."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._inner: list[float] = []  # of the parts within those that run

    def watch(self) -> None:
        """From now on, by wrapping the functions."""
        for part, places in {**FUNCTIONS, **BESIDE}.items():
            for module, name in places:
                self._wrap(part, module, name)

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Within, time is this part's, but for that of parts within it."""
        began = time.thread_time()
        self._inner.append(0.0)
        try:
            yield
        finally:
            whole = time.thread_time() - began
            self.seconds[part] += whole - self._inner.pop()
            if self._inner:
                self._inner[-1] += whole

    def _wrap(self, part: str, module: str, name: str) -> None:
        *owners, last = name.split(".")
        try:
            owner: Any = functools.reduce(getattr, owners, import_module(module))
            function: Callable[..., Any] = vars(owner)[last]
        except (ImportError, AttributeError, KeyError):
            return

        @functools.wraps(function)
        def wrapped(*arguments: Any, **options: Any) -> Any:
            with self.timed(part):
                return function(*arguments, **options)

        setattr(owner, last, wrapped)


def operations(run: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """What `run` returns, and the microseconds of each operation in it."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU]) as seen:
        result = run()
    return result, {event.key: event.self_cpu_time_total for event in seen.key_averages()}


def by_kind(of_operations: Mapping[str, float]) -> dict[str, float]:
    """The shares of kinds of operations."""
    whole = sum(of_operations.values())
    shares = {
        kind: sum(size for key, size in of_operations.items() if any(name in key for name in names)) / whole
        for kind, names in OPERATIONS.items()
    }
    return {**shares, REST: 1.0 - sum(shares.values())}
