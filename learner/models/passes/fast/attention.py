"""Causal attention of rows in groups, with its rotations, as one operation with a backward pass of its own.

    P = softmax(q k^T + mask),   o = P v
    dP = do v^T,   dS = P (dP - rowsum(P dP)),   dq = dS k,   dk = dS^T q,   dv = P^T do

The rotation of a pair of channels is a complex product; its backward pass is the product with the conjugate.
"""

from functools import lru_cache
from itertools import zip_longest
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from learner.models.passes.fast.row_groups import HeadPlaces, QueryBlock, RowGroups
from tppo.models import memory_estimate

#: Probabilities of one pass through a block, the first ones, that are kept for its backward pass.
MAX_KEPT = memory_estimate.MAX_PROBABILITIES_KEPT


class Rotations(NamedTuple):
    """Complex [tokens, 1, head_dim / 2]."""

    of_queries: Tensor
    of_keys: Tensor


def attend(
    queries: Tensor, keys_and_values: Tensor, rows: RowGroups, rotations: Rotations, *, scale: float, num_kv_heads: int
) -> Tensor:
    """[n, heads * head_dim], from queries of that shape and keys and values [total, 2 * kv_heads * head_dim].

    Channels that are rotated together stand side by side.
    """
    attention: Any = _Attention.apply
    found: Tensor = attention(queries, keys_and_values, rows, rotations, scale, num_kv_heads)
    return found


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        queries: Tensor,
        keys_and_values: Tensor,
        rows: RowGroups,
        rotations: Rotations,
        scale: float,
        num_kv_heads: int,
    ) -> Tensor:
        head_dim = keys_and_values.shape[1] // (2 * num_kv_heads)
        keys, values = keys_and_values.chunk(2, dim=1)
        query = _padded(_rotated(queries, rotations.of_queries), rows.queries, head_dim)
        key = _padded(_rotated(keys, rotations.of_keys), rows.keys, head_dim)
        value = _padded(values.contiguous(), rows.keys, head_dim)
        attended = torch.empty_like(query)
        kept: list[Tensor] = []
        num_kept, is_trained = 0, ctx.needs_input_grad[0]
        for block in rows.blocks:
            probabilities = _probabilities(block, query, key, scale)
            torch.bmm(probabilities, block.seen(value), out=block.own(attended))
            num_kept += probabilities.numel()
            if is_trained and num_kept <= MAX_KEPT:
                kept.append(probabilities)
        ctx.save_for_backward(query, key, value, *kept)
        ctx.rows, ctx.rotations = rows, rotations
        ctx.scale, ctx.num_kv_heads = scale, num_kv_heads
        return _unpadded(attended, rows.queries, len(queries))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_attended: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, *first_kept = ctx.saved_tensors
        rows: RowGroups = ctx.rows
        head_dim = query.shape[1]
        outputs = _padded_with_zeros(of_attended, rows.queries, head_dim)
        of_query, of_key, of_value = torch.empty_like(query), torch.zeros_like(key), torch.zeros_like(value)
        for block, kept in zip_longest(rows.blocks, first_kept):
            probabilities = _probabilities(block, query, key, ctx.scale) if kept is None else kept
            output, own_query = block.own(outputs), block.own(query)
            of_scores = torch.bmm(output, block.seen_across(value))
            of_scores = torch._softmax_backward_data(of_scores, probabilities, -1, of_scores.dtype)
            block.own(of_query).baddbmm_(of_scores, block.seen(key), beta=0, alpha=ctx.scale)
            block.seen(of_key).baddbmm_(of_scores.transpose(1, 2), own_query, alpha=ctx.scale)
            block.seen(of_value).baddbmm_(probabilities.transpose(1, 2), output)
        total = len(rows.keys.of_tokens) // ctx.num_kv_heads
        of_keys_and_values = query.new_empty(total, 2 * ctx.num_kv_heads * head_dim)
        of_keys, of_values = of_keys_and_values.chunk(2, dim=1)
        _rotate_into(of_keys, _unpadded(of_key, rows.keys, total), ctx.rotations.of_keys.conj())
        of_values.copy_(_unpadded(of_value, rows.keys, total))
        of_queries = _rotated(_unpadded(of_query, rows.queries, len(of_attended)), ctx.rotations.of_queries.conj())
        return of_queries, of_keys_and_values, None, None, None, None


def _probabilities(block: QueryBlock, query: Tensor, key: Tensor, scale: float) -> Tensor:
    """[rows, heads * queries, keys]."""
    num = block.num_heads * block.num_queries
    scores = query.new_empty(block.num_rows, num, block.num_seen)
    scores.baddbmm_(block.own(query), block.seen_across(key), beta=0, alpha=scale)
    diagonal = scores.as_strided(
        (block.num_rows * block.num_heads, block.num_queries, block.num_queries),
        (block.num_queries * block.num_seen, block.num_seen, 1),
        block.num_seen - block.num_queries,
    )
    diagonal += _later(block.num_queries, scores.dtype)
    return scores.softmax(-1)


@lru_cache(maxsize=256)
def _later(num_queries: int, dtype: torch.dtype) -> Tensor:
    """-inf where a key is later than the query, else 0."""
    return torch.full((num_queries, num_queries), -torch.inf, dtype=dtype).triu(1)


def _padded(of_tokens: Tensor, places: HeadPlaces, head_dim: int) -> Tensor:
    return of_tokens.view(-1, head_dim).index_select(0, places.of_padded)


def _padded_with_zeros(of_tokens: Tensor, places: HeadPlaces, head_dim: int) -> Tensor:
    padded = of_tokens.new_zeros(len(places.of_padded), head_dim)
    return padded.index_copy_(0, places.of_tokens, of_tokens.reshape(-1, head_dim))


def _unpadded(padded: Tensor, places: HeadPlaces, num_tokens: int) -> Tensor:
    return padded.index_select(0, places.of_tokens).view(num_tokens, -1)


def _rotated(heads: Tensor, rotations: Tensor) -> Tensor:
    """[tokens, heads * head_dim]."""
    rotated = torch.empty(heads.shape, dtype=heads.dtype)
    _rotate_into(rotated, heads, rotations)
    return rotated


def _rotate_into(rotated: Tensor, heads: Tensor, rotations: Tensor) -> None:
    torch.mul(_pairs(heads, rotations), rotations, out=_pairs(rotated, rotations))


def _pairs(heads: Tensor, rotations: Tensor) -> Tensor:
    """As complex numbers [tokens, heads, head_dim / 2]."""
    pairs: Tensor = heads.unflatten(1, (-1, rotations.shape[-1], 2))  # type: ignore[no-untyped-call]
    return torch.view_as_complex(pairs)
