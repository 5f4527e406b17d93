"""The fast path: the bodies of Qwen2, Qwen3 and Llama in few operations, for rows in one line.

What transformers' modules compute in many passes over memory is here one product of stacked weights, or one operation
of operations.py. The weight of each norm is folded into the product that follows it; the two halves of a head that are
rotated against each other stand interleaved, so that a rotation is one complex product. In the last block, of tokens
that no result is wanted of, keys and values alone are computed.

For float32 on a CPU, and for small blocks: stacked and folded weights are copies, kept for the backward pass, which are
small beside what is computed as long as the model is.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Linear, Module
from torch.nn.functional import linear

from learner.models.passes.fast.attention import Rotations, attend
from learner.models.passes.fast.operations import gated, rms_normed
from learner.models.passes.fast.row_groups import RowGroups, row_groups
from learner.models.passes.packing import PackedBatch
from tppo.models import memory_estimate
from tppo.models.llama_blocks import has_llama_blocks

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")
_MARK = "takes_fast_path"


def has_fast_path(network: Any) -> bool:
    """Whether `hidden_states` computes what the network's body does, as it is now."""
    body: Any = getattr(network, "base_model", None)
    return getattr(body, _MARK, False) and all(map(_is_plain, body.layers))


def try_fast_path(network: Any, batch: PackedBatch, outputs: Tensor, *, tolerance: float) -> None:
    """The network, and each copy of it, takes it from now on where it gives the body's `outputs` [total, hidden]."""
    if not _may_have_fast_path(network):
        return
    positions = torch.arange(len(outputs))[torch.isin(torch.arange(len(outputs)), batch.selected_positions)]
    found = hidden_states(network, batch, positions)
    is_close = float((found - outputs[positions]).abs().max()) <= tolerance
    setattr(network.base_model, _MARK, is_close)


def _may_have_fast_path(network: Any) -> bool:
    return (
        has_llama_blocks(network.config)
        and network.base_model is not network
        and _size(network.base_model.layers[0]) <= memory_estimate.MAX_BLOCK_OF_FAST_PATH
        and all(map(_is_plain, network.base_model.layers))
    )


def _size(block: Module) -> int:
    return sum(parameter.numel() for parameter in block.parameters())


def _is_plain(block: Any) -> bool:
    """In float32 on a CPU, with no forward pass of its own, and without adapters or hooks."""
    weight = block.input_layernorm.weight
    linears: list[Module] = [getattr(block.self_attn, name) for name in ATTENTION]
    linears += [getattr(block.mlp, name) for name in MLP]
    return (
        type(weight) is torch.nn.Parameter
        and (weight.dtype, weight.device.type) == (torch.float32, "cpu")
        and "forward" not in vars(block)
        and all(type(one) is Linear and one.weight.dtype == torch.float32 for one in linears)
    )


def hidden_states(network: Any, batch: PackedBatch, positions: Tensor) -> Tensor:
    """The body's last hidden states [n, hidden] at these positions of the line, each that of a selected token or the
    last one of a row.
    """
    config, body = network.config, network.base_model
    heads = {"num_heads": config.num_attention_heads, "num_kv_heads": config.num_key_value_heads}
    lengths = batch.row_lengths
    firsts = tuple(length - 1 - num for length, num in zip(lengths, batch.num_selected, strict=True))
    asking = row_groups(lengths, firsts, **heads)
    rotations = _rotations(body, batch)
    hidden = body.embed_tokens(batch.input_ids[0])
    *blocks, last = body.layers
    if blocks:
        everyone = row_groups(lengths, (0,) * len(lengths), **heads)
        for block in blocks:
            hidden = _through(block, hidden, everyone, rotations, **heads)
    hidden = _through(last, hidden, asking, rotations, **heads)
    places = positions if asking.queried is None else torch.searchsorted(asking.queried, positions)
    found: Tensor = rms_normed(hidden.index_select(0, places), body.norm.variance_epsilon) * body.norm.weight
    return found


def _rotations(body: Any, batch: PackedBatch) -> Tensor:
    """Complex [tokens, 1, head_dim / 2]."""
    places = torch.arange(max(batch.row_lengths))
    cosine, sine = body.rotary_emb(body.embed_tokens.weight, places[None])
    half = cosine.shape[-1] // 2
    of_places = torch.complex(cosine[0, :, :half].contiguous(), sine[0, :, :half].contiguous())
    return of_places.index_select(0, batch.position_ids[0]).unsqueeze(1)


def _through(
    block: Any, hidden: Tensor, rows: RowGroups, rotations: Tensor, *, num_heads: int, num_kv_heads: int
) -> Tensor:
    """A block's outputs [n, hidden] for the tokens with queries, from its inputs [total, hidden]."""
    attention, mlp = block.self_attn, block.mlp
    before, after = block.input_layernorm, block.post_attention_layernorm
    normed = rms_normed(hidden, before.variance_epsilon)
    own, own_normed, own_rotations = hidden, normed, rotations
    if rows.queried is not None:
        own, own_normed, own_rotations = (one.index_select(0, rows.queried) for one in (hidden, normed, rotations))
    queries = _projected(own_normed, before, [_interleaved(attention.q_proj, num_heads)])
    keys, values = _interleaved(attention.k_proj, num_kv_heads), attention.v_proj
    keys_and_values = _projected(normed, before, [keys, (values.weight, values.bias)])
    if hasattr(attention, "q_norm"):
        queries, keys_and_values = _with_normed_heads(attention, queries, keys_and_values)
    attended = attend(
        queries,
        keys_and_values,
        rows,
        Rotations(own_rotations, rotations),
        scale=attention.scaling,
        num_kv_heads=num_kv_heads,
    )
    hidden = own + attention.o_proj(attended)
    normed = rms_normed(hidden, after.variance_epsilon)
    gates_and_values = _projected(normed, after, [(one.weight, one.bias) for one in (mlp.gate_proj, mlp.up_proj)])
    outputs: Tensor = hidden + mlp.down_proj(gated(gates_and_values))
    return outputs


def _projected(normed: Tensor, norm: Any, projections: Sequence[tuple[Tensor, Tensor | None]]) -> Tensor:
    """All projections of the norm's outputs, side by side."""
    weights, biases = zip(*projections, strict=True)
    bias = None if biases[0] is None else torch.cat(biases)
    return linear(normed, torch.cat(weights) * norm.weight, bias)


def _interleaved(projection: Linear, num_heads: int) -> tuple[Tensor, Tensor | None]:
    """Weight and bias with the channels of each head in the order 0, half, 1, half + 1, ..."""
    bias = projection.bias
    return _pairs_together(projection.weight, num_heads), None if bias is None else _pairs_together(bias, num_heads)


def _pairs_together(tensor: Tensor, num_heads: int) -> Tensor:
    """Of the first dimension, the heads' channels."""
    halves: Tensor = tensor.unflatten(0, (num_heads, 2, -1))  # type: ignore[no-untyped-call]
    return halves.transpose(1, 2).flatten(0, 2)


def _with_normed_heads(attention: Any, queries: Tensor, keys_and_values: Tensor) -> tuple[Tensor, Tensor]:
    """Qwen3: each head of queries and keys goes through a norm."""
    keys, values = keys_and_values.chunk(2, dim=1)
    normed = []
    for heads, norm in ((queries, attention.q_norm), (keys, attention.k_norm)):
        of_each = rms_normed(heads.reshape(-1, attention.head_dim), norm.variance_epsilon)
        normed.append((of_each * _pairs_together(norm.weight, 1)).view(heads.shape))
    return normed[0], torch.cat([normed[1], values], dim=1)
