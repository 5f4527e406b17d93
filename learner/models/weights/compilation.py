"""`torch.compile` of a network's blocks: all blocks of a class are one program, for lines of any length.

Attention is left out of it: how many rows stand in a line, and how long they are, would be part of the program, which
would be compiled again for every micro-batch. What is compiled is the rest of a block: norms, projections, rotations
and MLP.
"""

import importlib.util
import os
import shlex
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch.nn import Module
from transformers import AttentionInterface, PreTrainedModel

from learner.models.passes.attention import PACKED_ATTENTION, attend_within_rows
from learner.models.passes.outputs import Policy, ValueModel, token_logprobs, token_values
from learner.models.passes.packing import PackedBatch, TokenRow, pack
from learner.models.weights.activation_checkpointing import Mode, checkpoint_blocks
from tppo.models import probe
from tppo.models.library_errors import first_line

MAX_PROGRAMS = 64
"""Of one class: in training and without gradients, of two networks and their frozen copies, for each kind of layer."""


class CompilationError(ValueError):
    """The blocks cannot be compiled here, or compute something else then."""


def why_not(device: torch.device) -> str | None:
    """What is missing for compiling on the device; None where it can be tried."""
    if device.type in ("cuda", "xpu"):
        return None if importlib.util.find_spec("triton") else "the package triton is not installed"
    compiler = (shlex.split(os.environ.get("CXX", "")) or ["g++"])[0]
    return None if shutil.which(compiler) else f"no C++ compiler {compiler} on PATH"


def require_compiler(device: torch.device) -> None:
    """Raise `CompilationError` where blocks cannot be compiled on the device."""
    if missing := why_not(device):
        raise CompilationError(f"{missing}; expected it, or false")


def compiled_forward(kind: type[Module]) -> Callable[..., Any]:
    """The forward pass of this class of blocks, with the block as its first argument; compiled at the first call."""
    return _compiled(kind.forward)


@cache
def _compiled(forward: Callable[..., Any]) -> Callable[..., Any]:
    within_rows: Any = torch.compiler.disable(attend_within_rows)  # type: ignore[no-untyped-call]
    AttentionInterface.register(PACKED_ATTENTION, within_rows)
    import torch._dynamo as dynamo  # takes a second

    dynamo.config.recompile_limit = max(dynamo.config.recompile_limit, MAX_PROGRAMS)
    return torch.compile(forward, dynamic=True)


def compile_policy(policy: Policy, mode: Mode) -> probe.LogprobDifference:
    """Compile its blocks, in training too; how far log-probabilities move. Raises `CompilationError`."""
    sampled, batch = replace(policy, temperature=1.0), _a_batch(policy.network)
    with _explained(policy.network):
        with torch.no_grad():
            expected = token_logprobs(sampled, batch)
            checkpoint_blocks(policy.network, mode, forward_of=compiled_forward)
            apart = probe.difference([token_logprobs(sampled, batch)], [expected])
        if not apart.is_within(tolerance := probe.TOLERANCES[policy.network.dtype]):
            allowed = tolerance.at(apart.size)
            raise CompilationError(
                f"compiled blocks of {type(policy.network).__name__} change log-probabilities by {apart.worst:.3g} "
                f"nats, {apart.mean:.2g} in the mean; expected at most {allowed.worst:.3g} and {allowed.mean:.2g}"
            )
        token_logprobs(sampled, batch).sum().backward()  # type: ignore[no-untyped-call]
        _forget_gradients(policy)
    return apart


def compile_value_model(value_model: ValueModel, mode: Mode) -> None:
    """Compile its blocks, in training too. Raises `CompilationError`."""
    batch = _a_batch(value_model.network)
    with _explained(value_model.network):
        checkpoint_blocks(value_model.network, mode, forward_of=compiled_forward)
        with torch.no_grad():
            token_values(value_model, batch)
        token_values(value_model, batch).sum().backward()  # type: ignore[no-untyped-call]
        _forget_gradients(value_model)


def _a_batch(network: PreTrainedModel) -> PackedBatch:
    rows = [TokenRow(row.tokens, row.start) for row in probe.rows_for(network)]
    (batch,) = pack(rows, max_tokens=sum(len(row.token_ids) for row in rows))
    return batch


def _forget_gradients(model: Policy | ValueModel) -> None:
    for parameter in (*model.network.parameters(), *model.weights.parameters()):
        parameter.grad = None


@contextmanager
def _explained(network: PreTrainedModel) -> Iterator[None]:
    require_compiler(network.device)
    try:
        yield
    except RuntimeError as error:  # of torch._dynamo and torch._inductor
        raise CompilationError(
            f"the blocks of {type(network).__name__} do not compile: {first_line(error)}; expected false"
        ) from error
