"""Norms and gates in few operations, forward and backward, which keep and write no more than they need."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def rms_normed(inputs: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) over the last dimension."""
    normed: Any = _RmsNorm.apply
    found: Tensor = normed(inputs, eps)
    return found


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, eps: float) -> Tensor:
        normed, inverse = divided_by_rms(inputs, eps)
        ctx.save_for_backward(normed, inverse)
        return normed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_normed: Tensor) -> tuple[Tensor, None]:
        normed, inverse = ctx.saved_tensors
        return across_rms(of_normed, normed).mul_(inverse), None


def divided_by_rms(inputs: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """n = x / r over the last dimension, and 1 / r."""
    lengths: Tensor = torch.linalg.vector_norm(inputs, dim=-1, keepdim=True)
    inverse = lengths.square_().div_(inputs.shape[-1]).add_(eps).rsqrt_()
    return inputs * inverse, inverse


def across_rms(of_normed: Tensor, normed: Tensor) -> Tensor:
    """The inputs' gradient, times r:  dn - n mean(n dn)."""
    along = (normed * of_normed).mean(-1, keepdim=True)
    return torch.addcmul(of_normed, normed, along, value=-1)


def gated(gates_and_values: Tensor, *, keeps: bool) -> tuple[Tensor, Tensor]:
    """silu(gate) and silu(gate) * value [n, size], of [n, 2 * size] with all gates before the values.

    Where nothing is kept for a backward pass, both are the same tensor, in the place of the gates.
    """
    gates, values = gates_and_values.chunk(2, dim=1)
    activated = torch.nn.functional.silu(gates, inplace=not keeps)
    return activated, activated * values if keeps else activated.mul_(values)


def of_gated(of_product: Tensor, product: Tensor, activated: Tensor, gates_and_values: Tensor) -> Tensor:
    """The gradient of gates and values, from that of the product; in their place, as all of it is needed no more.

    Memory that has just been read is faster to write than new memory, which the system has yet to hand out.
    """
    gates, values = gates_and_values.chunk(2, dim=1)
    of_activated = torch.mul(of_product, values, out=product)
    torch.mul(of_product, activated, out=values)
    torch.ops.aten.silu_backward.grad_input(of_activated, gates, grad_input=gates)
    return gates_and_values
