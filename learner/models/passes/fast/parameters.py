"""The parameters of a block, and the products that they become for the fast path.

The weight of a norm is folded into the products that follow it, and the channels of each head of queries and keys are
interleaved: 0, half, 1, half + 1, ...
"""

from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from learner.models.passes.fast.row_groups import Heads


class Parameters(NamedTuple):
    """Of a block; None where a family has none."""

    before: Tensor  # weight of the norm
    query: Tensor
    key: Tensor
    value: Tensor
    output: Tensor
    after: Tensor  # weight of the norm
    gate: Tensor
    up: Tensor
    down: Tensor
    query_bias: Tensor | None
    key_bias: Tensor | None
    value_bias: Tensor | None
    output_bias: Tensor | None
    gate_bias: Tensor | None
    up_bias: Tensor | None
    down_bias: Tensor | None
    query_norm: Tensor | None  # of each head
    key_norm: Tensor | None

    @classmethod
    def of(cls, block: Any) -> "Parameters":
        """Those of transformers' modules."""
        attention, mlp = block.self_attn, block.mlp
        from_hidden = [attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj]
        of_mlp = [mlp.gate_proj, mlp.up_proj, mlp.down_proj]
        norms = (attention.q_norm.weight, attention.k_norm.weight) if hasattr(attention, "q_norm") else (None, None)
        in_order: list[Tensor | None] = [
            block.input_layernorm.weight,
            *(one.weight for one in from_hidden),
            block.post_attention_layernorm.weight,
            *(one.weight for one in of_mlp),
            *(one.bias for one in (*from_hidden, *of_mlp)),
            *norms,
        ]
        return cls._make(in_order)


class Folded(NamedTuple):
    """Products that follow a norm, side by side as one."""

    plain: Tensor  # [outputs, hidden]
    weight: Tensor  # times that of the norm
    bias: Tensor | None

    @classmethod
    def of_attention(cls, of_block: Parameters, heads: Heads) -> "Folded":
        """Of queries, keys and values; the channels of queries and keys interleaved."""
        order = interleaved(heads)
        plain = torch.cat([of_block.query, of_block.key, of_block.value]).index_select(0, order)
        biases = (of_block.query_bias, of_block.key_bias, of_block.value_bias)
        bias = None if biases[0] is None else torch.cat(biases).index_select(0, order)  # type: ignore[arg-type]
        return cls(plain, plain * of_block.before, bias)

    @classmethod
    def of_mlp(cls, of_block: Parameters) -> "Folded":
        """Of gates and values."""
        plain = torch.cat([of_block.gate, of_block.up])
        biases = (of_block.gate_bias, of_block.up_bias)
        bias = None if biases[0] is None else torch.cat(biases)  # type: ignore[arg-type]
        return cls(plain, plain * of_block.after, bias)


def unfolded(of_weight: Tensor, plain: Tensor, norm: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of the plain weight and of the norm's, from that of their product, which is overwritten."""
    of_norm = (of_weight * plain).sum(0)
    return of_weight.mul_(norm), of_norm


def channels(heads: Heads) -> list[int]:
    """Channels of queries, keys and values."""
    return [heads.num * heads.size, heads.num_kv * heads.size, heads.num_kv * heads.size]


@lru_cache(maxsize=16)
def pairs_together(size: int) -> Tensor:
    """Channels of a head that are rotated together stand side by side: 0, half, 1, half + 1, ..."""
    return torch.arange(size).view(2, -1).t().flatten()


@lru_cache(maxsize=16)
def interleaved(heads: Heads) -> Tensor:
    """The order of the channels of queries, keys and values."""
    num = heads.num + heads.num_kv
    rotated = torch.arange(num)[:, None] * heads.size + pairs_together(heads.size)
    return torch.cat([rotated.flatten(), torch.arange(num * heads.size, sum(channels(heads)))])


@lru_cache(maxsize=16)
def apart(heads: Heads) -> Tensor:
    """Back from that order."""
    return interleaved(heads).argsort()
