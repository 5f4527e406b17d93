"""Attention of ranks that have a line's tokens between them, beside that of one that has them all."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from learner.models.passes.attention import PACKED_ATTENTION, attend_within_rows
from learner.models.passes.outputs import forward
from learner.models.passes.packing import RowLengths, TokenRow, pack
from learner.models.passes.parts import Part
from learner.parallel.group import Group
from tppo.models.memory_estimate import ModelShape

HEADS, WIDTH = 4, 6
ROWS = (7, 1, 5, 3)
SIZES: Mapping[str, Any] = {
    **{"vocab_size": 32, "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 3},
    **{"num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 128},
}
ATTENTIONS: Mapping[str, dict[str, Any]] = {
    "one head for keys": {"kv_heads": 1},
    "two heads for keys": {"kv_heads": 2},
    "as many heads for keys": {"kv_heads": 4},
    "values of another width": {"kv_heads": 4, "value_width": 3},
    "sliding window": {"kv_heads": 2, "sliding_window": 3},
    "soft cap": {"kv_heads": 2, "softcap": 2.0},
    "sinks": {"kv_heads": 2, "has_sinks": True},
}


def divided_attention(group: Group) -> dict[str, float]:
    """The largest difference of outputs and gradients, by the name of the attention."""
    layout = Group.joined(group.device, sequence_size=group.size)
    return {name: worst_difference(layout, **options) for name, options in ATTENTIONS.items()}


def worst_difference(
    group: Group, *, kv_heads: int, value_width: int = WIDTH, has_sinks: bool = False, **options: Any
) -> float:
    """Of all ranks' tokens, and of the sinks, whose gradients are summed over the ranks."""
    torch.manual_seed(3)
    total, size = sum(ROWS), sum(ROWS) // group.size
    shapes = ((HEADS, total, WIDTH), (kv_heads, total, WIDTH), (kv_heads, total, value_width), (1, total, value_width))
    query, key, value, weights = (torch.randn(1, *shape) for shape in shapes)
    sinks = torch.randn(HEADS) if has_sinks else None
    own = slice(group.rank * size, (group.rank + 1) * size)
    whole = attended((query, key, value), sinks, weights, RowLengths(ROWS), options)
    part = attended(
        tuple(one[:, :, own] for one in (query, key, value)),
        sinks,
        weights[:, :, own],
        RowLengths(ROWS, group.sequence),
        options,
    )
    if has_sinks:
        torch.distributed.all_reduce(part[4])
    expected = [whole[0][:, own], *(one[:, :, own] for one in whole[1:4]), *whole[4:]]
    worst = max(float((mine - theirs).abs().max()) for mine, theirs in zip(part, expected, strict=True))
    return max(float(one) for one in group.gathered(torch.tensor([worst]), [1] * group.size))


def kept_activations(group: Group) -> tuple[int, int]:
    """Bytes that a pass keeps for its backward pass: alone, and by this rank's part."""
    torch.manual_seed(3)
    network: Any = LlamaForCausalLM(LlamaConfig(**SIZES))
    network.eval()
    network.set_attn_implementation(PACKED_ATTENTION)
    (line,) = pack([TokenRow([7] * length, start=1) for length in (100, 28)], max_tokens=128)
    sequence = Group.joined(group.device, sequence_size=group.size).sequence
    alone, own = (kept_bytes(network, part) for part in (Part.of(line), Part.of(line, sequence)))
    return alone, own


def kept_bytes(network: Any, part: Part) -> int:
    weights = {one.untyped_storage().data_ptr() for one in network.parameters()}
    kept: dict[int, Tensor] = {}  # alive, so that no place is given again

    def keep(tensor: Tensor) -> Tensor:
        place = tensor.untyped_storage().data_ptr()
        if tensor.is_floating_point() and place not in weights:
            kept[place] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        forward(network.base_model, part)
    return sum(one.untyped_storage().nbytes() for one in kept.values())


def shape_of_kept_activations() -> ModelShape:
    """For the estimate."""
    return ModelShape.of(LlamaConfig(**SIZES), 0)


def attended(
    tensors: tuple[Tensor, ...], sinks: Tensor | None, weights: Tensor, rows: RowLengths, options: dict[str, Any]
) -> list[Tensor]:
    """The output, and the gradients of queries, keys, values and sinks."""
    inputs = [one.detach().clone().requires_grad_() for one in (*tensors, *([] if sinks is None else [sinks]))]
    s_aux = None if sinks is None else inputs[3]
    query, key, value, *_ = inputs
    output, _ = attend_within_rows(torch.nn.Module(), query, key, value, None, rows=rows, s_aux=s_aux, **options)
    (output * weights.transpose(1, 2)).sum().backward()  # type: ignore[no-untyped-call]
    gradients = [one.grad for one in inputs]
    assert all(one is not None for one in gradients)
    return [output.detach(), *(one for one in gradients if one is not None)]
