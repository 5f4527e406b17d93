"""Parts of a block as one operation each, with backward passes that keep and write no more than they need."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def rms_normed(inputs: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) over the last dimension of [n, size]."""
    normed: Any = _RmsNorm.apply
    found: Tensor = normed(inputs, eps)
    return found


def gated(gates_and_values: Tensor) -> Tensor:
    """silu(gate) * value, for [n, 2 * size] with all gates before the values."""
    of_gate: Any = _Gated.apply
    found: Tensor = of_gate(gates_and_values)
    return found


class _RmsNorm(torch.autograd.Function):
    """n = x / r,   dx = (dn - n mean(n dn)) / r."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, eps: float) -> Tensor:
        lengths: Tensor = torch.linalg.vector_norm(inputs, dim=-1, keepdim=True)
        inverse = lengths.square_().div_(inputs.shape[-1]).add_(eps).rsqrt_()
        normed = inputs * inverse
        ctx.save_for_backward(normed, inverse)
        return normed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_normed: Tensor) -> tuple[Tensor, None]:
        normed, inverse = ctx.saved_tensors
        along = (normed * of_normed).mean(-1, keepdim=True)
        return torch.addcmul(of_normed, normed, along, value=-1).mul_(inverse), None


class _Gated(torch.autograd.Function):
    """silu(g) = g s with s = sigmoid(g),   d silu / dg = s + silu - silu s."""

    @staticmethod
    def forward(ctx: Any, gates_and_values: Tensor) -> Tensor:
        gates, values = gates_and_values.chunk(2, dim=1)
        shares = torch.sigmoid(gates)
        activated = gates * shares
        ctx.save_for_backward(values, shares, activated)
        return activated * values

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_gated: Tensor) -> Tensor:
        values, shares, activated = ctx.saved_tensors
        found = of_gated.new_empty(len(of_gated), 2 * of_gated.shape[1])
        of_gates, of_values = found.chunk(2, dim=1)
        torch.mul(of_gated, activated, out=of_values)
        slopes = (shares + activated).addcmul_(shares, activated, value=-1)
        torch.mul(slopes.mul_(values), of_gated, out=of_gates)
        return found
