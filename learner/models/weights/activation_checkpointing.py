"""Activation checkpointing: what a block of the network computes is computed again in the backward pass, not kept.

`full` keeps a block's input alone. `selective` also keeps what is dear to compute, the products and the attention, and
computes again what lies between them: norms, activations, rotations. Neither changes a number.
"""

from collections.abc import Callable
from functools import partial
from types import MethodType
from typing import Any, Literal

import torch
from torch.nn import Module, ModuleList
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts
from transformers.modeling_layers import GradientCheckpointingLayer

Mode = Literal["off", "selective", "full"]
aten = torch.ops.aten
KEPT = frozenset(
    {
        aten.mm.default,
        aten.addmm.default,
        aten.bmm.default,
        aten.baddbmm.default,
        aten._grouped_mm.default,
        aten._scaled_dot_product_flash_attention.default,
        aten._scaled_dot_product_flash_attention_for_cpu.default,
        aten._scaled_dot_product_efficient_attention.default,
        aten._scaled_dot_product_cudnn_attention.default,
    }
)
"""Operations whose results `selective` keeps."""


ForwardOf = Callable[[type[Module]], Callable[..., Any]]


def own_forward(kind: type[Module]) -> Callable[..., Any]:
    """Of the class, with the block as its first argument."""
    return kind.forward


def checkpoint_blocks(network: Module, mode: Mode, *, forward_of: ForwardOf = own_forward) -> None:
    """From now on the network's blocks do so in every pass with gradients; a copy of the network does, too.

    `forward_of` gives what a class of blocks computes by.
    """
    for block in blocks_of(network):
        if mode == "off" and forward_of is own_forward:
            vars(block).pop("forward", None)
        else:
            vars(block)["forward"] = MethodType(partial(_RUN[mode], forward_of), block)


def blocks_of(network: Module) -> list[Module]:
    """The layers of a transformer: those that transformers marks so, else the longest list of modules."""
    marked = _outermost(network)
    if marked:
        return marked
    lists = [module for module in network.modules() if isinstance(module, ModuleList)]
    return list(max(lists, key=len, default=()))


def _outermost(module: Module) -> list[Module]:
    if isinstance(module, GradientCheckpointingLayer):
        return [module]
    return [block for child in module.children() for block in _outermost(child)]


def _keeping_all(forward_of: ForwardOf, block: Module, *args: Any, **kwargs: Any) -> Any:
    return forward_of(type(block))(block, *args, **kwargs)


def _fully(forward_of: ForwardOf, block: Module, *args: Any, **kwargs: Any) -> Any:
    return _checkpointed(forward_of, block, args, kwargs)


def _selectively(forward_of: ForwardOf, block: Module, *args: Any, **kwargs: Any) -> Any:
    context = partial(create_selective_checkpoint_contexts, _policy)
    return _checkpointed(forward_of, block, args, kwargs, context_fn=context)


def _checkpointed(forward_of: ForwardOf, block: Module, args: Any, kwargs: Any, **options: Any) -> Any:
    forward = MethodType(forward_of(type(block)), block)
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    return checkpoint(forward, *args, **kwargs, **options, use_reentrant=False, preserve_rng_state=False)


def _policy(_context: Any, operation: Any, *_args: Any, **_kwargs: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if operation in KEPT else CheckpointPolicy.PREFER_RECOMPUTE


_RUN: dict[Mode, Callable[..., Any]] = {"off": _keeping_all, "full": _fully, "selective": _selectively}
