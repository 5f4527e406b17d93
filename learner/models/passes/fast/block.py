"""A block of Qwen2, Qwen3 or Llama as one operation with a backward pass of its own.

    n = x / r(x),   q = n (Q g)^T,   k, v = n (K g)^T, n (V g)^T,   h = x + attention(q, k, v) O^T
    m = h / r(h),   y = h + (silu(m (G g')^T) * m (U g')^T) D^T

g and g' are the weights of the norms, folded into the products that follow. The channels of a head are in the order 0,
half, 1, half + 1, ..., so that RoPE is one complex product; its gradient is the product with the conjugate.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear

from learner.models.passes.fast.attention import attend, of_attended
from learner.models.passes.fast.operations import across_rms, divided_by_rms, gated, of_gated
from learner.models.passes.fast.parameters import Folded, Parameters, apart, channels, pairs_together, unfolded
from learner.models.passes.fast.row_groups import Heads, RowGroups


class Rotations(NamedTuple):
    """Of the queries and keys of all tokens, complex [total, heads * size / 2], and those back."""

    there: Tensor
    back: Tensor


class BlockShape(NamedTuple):
    """What a block's parameters do not say."""

    heads: Heads
    scale: float
    eps: float  # of the norms before and after
    eps_of_heads: float
    keeps: bool  # what a backward pass needs


def through_block(block: Any, hidden: Tensor, rows: RowGroups, rotations: Rotations, heads: Heads) -> Tensor:
    """Outputs [n, hidden] for the tokens with queries, from inputs [total, hidden]."""
    attention: Any = block.self_attn
    eps_of_heads = attention.q_norm.variance_epsilon if hasattr(attention, "q_norm") else 0.0
    keeps = torch.is_grad_enabled()  # which is unknown within an operation
    shape = BlockShape(heads, attention.scaling, block.input_layernorm.variance_epsilon, eps_of_heads, keeps)
    through: Any = _Block.apply
    found: Tensor = through(hidden, rows, rotations, shape, *Parameters.of(block))
    return found


class _Block(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, rows: RowGroups, rotations: Rotations, shape: BlockShape, *parameters: Tensor | None
    ) -> Tensor:
        of_block = Parameters(*parameters)  # type: ignore[arg-type]
        normed, inverse = divided_by_rms(hidden, shape.eps)
        inward = Folded.of_attention(of_block, shape.heads)
        heads = linear(normed, inward.weight, inward.bias)
        of_norms = _norm_heads(of_block, heads, shape)
        _rotate(heads, rotations.there)
        attended = attend(heads.view(-1, shape.heads.size), rows, scale=shape.scale, keeps=shape.keeps)
        own = hidden if rows.queried is None else hidden.index_select(0, rows.queried)
        middle = torch.addmm(own, attended.outputs, of_block.output.t())
        if of_block.output_bias is not None:
            middle += of_block.output_bias
        after, after_inverse = divided_by_rms(middle, shape.eps)
        mlp = Folded.of_mlp(of_block)
        gates_and_values = linear(after, mlp.weight, mlp.bias)
        activated, product = gated(gates_and_values, keeps=shape.keeps)
        outputs = middle.addmm_(product, of_block.down.t())
        if of_block.down_bias is not None:
            outputs += of_block.down_bias
        ctx.save_for_backward(
            *parameters,
            *(normed, inverse, inward.weight, inward.plain, attended.padded, attended.outputs),
            *(after, after_inverse, mlp.weight, mlp.plain, gates_and_values, activated, product),
            *of_norms,
            *attended.kept,
        )
        ctx.rows, ctx.rotations, ctx.shape = rows, rotations, shape
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_outputs: Tensor) -> tuple[Tensor | None, ...]:
        rows, rotations, shape = ctx.rows, ctx.rotations, ctx.shape
        if rows is None:
            raise RuntimeError("a block's backward pass runs once: it writes its gradients over what was kept for it")
        ctx.rows = None
        saved = iter(ctx.saved_tensors)

        def take(count: int) -> list[Tensor]:
            return [next(saved) for _ in range(count)]

        of_block = Parameters(*take(len(Parameters._fields)))
        normed, inverse, inward, inward_plain, padded, attended = take(6)
        after, after_inverse, mlp, mlp_plain, gates_and_values, activated, product = take(7)
        of_norms = take(4 if of_block.query_norm is not None else 0)
        kept = [*saved]

        of_down = of_outputs.t() @ product  # which is overwritten next
        of_gates_and_values = of_gated(of_outputs @ of_block.down, product, activated, gates_and_values)
        of_after = across_rms(of_gates_and_values @ mlp, after)
        of_middle = torch.addcmul(of_outputs, of_after, after_inverse)
        of_heads = of_attended(of_middle @ of_block.output, padded, kept, rows, scale=shape.scale)
        of_heads = of_heads.view(len(normed), -1)
        _rotate(of_heads, rotations.back)
        of_head_norms = _through_head_norms(of_block, of_norms, of_heads, shape)
        of_hidden = of_middle
        if rows.queried is not None:
            of_hidden = torch.zeros_like(normed).index_copy_(0, rows.queried, of_middle)
        of_inward, of_before_norm = unfolded(of_heads.t() @ normed, inward_plain, of_block.before)
        of_mlp, of_after_norm = unfolded(of_gates_and_values.t() @ after, mlp_plain, of_block.after)
        of_parameters = (
            of_before_norm,
            *torch.split(of_inward.index_select(0, apart(shape.heads)), channels(shape.heads)),
            of_middle.t() @ attended,
            of_after_norm,
            *of_mlp.chunk(2),
            of_down,
            *_of_biases(of_block, of_heads, of_middle, of_gates_and_values, of_outputs, shape.heads),
            *of_head_norms,
        )
        # `of_hidden` is `of_middle` where every token has a query, and overwritten last.
        of_normed = across_rms(of_heads @ inward, normed)
        return of_hidden.addcmul_(of_normed, inverse), None, None, None, *of_parameters


def _rotate(of_tokens: Tensor, rotations: Tensor) -> None:
    """In place, the first channels of each token [n, channels]."""
    pairs: Tensor = of_tokens[:, : 2 * rotations.shape[1]].unflatten(1, (-1, 2))  # type: ignore[no-untyped-call]
    torch.view_as_complex(pairs).mul_(rotations)


def _heads_with_norms(of_tokens: Tensor, heads: Heads) -> tuple[Tensor, Tensor]:
    """[n, heads, size] of queries and keys."""
    of_heads = of_tokens.view(len(of_tokens), -1, heads.size)
    return of_heads[:, : heads.num], of_heads[:, heads.num : heads.num + heads.num_kv]


def _norm_heads(of_block: Parameters, of_tokens: Tensor, shape: BlockShape) -> list[Tensor]:
    """Qwen3: in place; what the backward pass needs of it."""
    kept: list[Tensor] = []
    if of_block.query_norm is None or of_block.key_norm is None:
        return kept
    order = pairs_together(shape.heads.size)
    with_norms = _heads_with_norms(of_tokens, shape.heads)
    for heads, norm in zip(with_norms, (of_block.query_norm, of_block.key_norm), strict=True):
        normed, inverse = divided_by_rms(heads, shape.eps_of_heads)
        torch.mul(normed, norm[order], out=heads)
        kept += [normed, inverse]
    return kept


def _through_head_norms(
    of_block: Parameters, kept: list[Tensor], of_tokens: Tensor, shape: BlockShape
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of the norms' weights; those of the heads are overwritten by those of what was normed."""
    if of_block.query_norm is None or of_block.key_norm is None:
        return None, None
    order = pairs_together(shape.heads.size)
    with_norms = _heads_with_norms(of_tokens, shape.heads)
    found = []
    for of_heads, norm, normed, inverse in zip(
        with_norms, (of_block.query_norm, of_block.key_norm), kept[::2], kept[1::2], strict=True
    ):
        found.append((of_heads * normed).sum((0, 1))[order.argsort()])
        of_heads.copy_(across_rms(of_heads * norm[order], normed).mul_(inverse))
    return found[0], found[1]


def _of_biases(
    of_block: Parameters,
    of_heads: Tensor,
    of_middle: Tensor,
    of_gates_and_values: Tensor,
    of_outputs: Tensor,
    heads: Heads,
) -> list[Tensor | None]:
    """In the order of the parameters."""
    found: list[Tensor | None] = [None] * 7
    if of_block.query_bias is not None:
        found[:3] = torch.split(of_heads.sum(0).index_select(0, apart(heads)), channels(heads))
    if of_block.output_bias is not None:
        found[3] = of_middle.sum(0)
    if of_block.gate_bias is not None:
        found[4:6] = of_gates_and_values.sum(0).chunk(2)
    if of_block.down_bias is not None:
        found[6] = of_outputs.sum(0)
    return found
