"""The fast path: the bodies of Qwen2, Qwen3 and Llama in few operations, for rows in one line.

What transformers' modules compute in many passes over memory is here one operation a block: block.py. In the last
block, tokens that no result is wanted of ask nothing, where they are many.

For float32 on a CPU, and for small blocks: stacked and folded weights are copies, kept for the backward pass, which are
small beside what is computed as long as the model is.
"""

from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.nn import Linear, Module

from learner.models.passes.fast.block import Rotations, through_block
from learner.models.passes.fast.operations import rms_normed
from learner.models.passes.fast.row_groups import Heads, row_groups
from learner.models.passes.packing import PackedBatch
from tppo.models import memory_estimate
from tppo.models.llama_blocks import has_llama_blocks

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")
_MARK = "takes_fast_path"
#: Tokens of a line that must have no queries in the last block to be left out there.
MIN_LEFT_OUT = 128
#: Kinds of RoPE that turn a place by the same angle in rows of all lengths.
LASTING_ROTATIONS = ("default", "linear", "llama3", "yarn")
_ROTATIONS: "WeakKeyDictionary[Module, Rotations]" = WeakKeyDictionary()
"""Of a body's first places, by its module; what has been needed so far."""


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
    lengths = batch.row_lengths
    *blocks, last = body.layers
    heads = Heads(config.num_attention_heads, config.num_key_value_heads, last.self_attn.head_dim)
    everyone = row_groups(lengths, (0,) * len(lengths), heads)
    rotations = _rotations(body, batch, heads)
    hidden = body.embed_tokens(batch.input_ids[0])
    for block in blocks:
        hidden = through_block(block, hidden, everyone, rotations, heads)
    asking = everyone
    if sum(lengths) - sum(batch.num_selected) - len(lengths) >= MIN_LEFT_OUT:
        firsts = tuple(length - 1 - num for length, num in zip(lengths, batch.num_selected, strict=True))
        asking = row_groups(lengths, firsts, heads)
    if asking.queried is not None:
        positions = torch.searchsorted(asking.queried, positions)
    hidden = through_block(last, hidden, asking, rotations, heads)
    found: Tensor = rms_normed(hidden.index_select(0, positions), body.norm.variance_epsilon) * body.norm.weight
    return found


def _rotations(body: Any, batch: PackedBatch, heads: Heads) -> Rotations:
    """Of all tokens."""
    places = batch.position_ids[0]
    return Rotations(*(table.index_select(0, places) for table in _of_places(body, max(batch.row_lengths), heads)))


def _of_places(body: Any, num: int, heads: Heads) -> Rotations:
    """Of that many first places in a row, or more."""
    rotary = body.rotary_emb
    found = _ROTATIONS.get(rotary)
    if found is None or len(found.there) < num:
        is_lasting = rotary.rope_type in LASTING_ROTATIONS
        places = torch.arange(1 << (num - 1).bit_length() if is_lasting else num)
        cosine, sine = rotary(body.norm.weight, places[None])
        half = cosine.shape[-1] // 2
        once = torch.complex(cosine[0, :, :half].contiguous(), sine[0, :, :half].contiguous())
        there = once.repeat(1, heads.num + heads.num_kv)
        found = Rotations(there, there.conj_physical())
        if is_lasting:
            _ROTATIONS[rotary] = found
    return found
