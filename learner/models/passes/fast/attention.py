"""Causal attention of rows in groups, and its gradients.

    P = softmax(q k^T + mask),   o = P v
    dP = do v^T,   dS = P (dP - rowsum(P dP)),   dq = dS k,   dk = dS^T q,   dv = P^T do

Queries, keys and values are what a product says of the line's tokens; here they stand in one tensor of heads, padded.
"""

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from learner.models.passes.fast.row_groups import QueryBlock, RowGroups
from tppo.models import memory_estimate

#: Probabilities of one pass through a block, the first ones, that are kept for its backward pass.
MAX_KEPT = memory_estimate.MAX_PROBABILITIES_KEPT


class Attended(NamedTuple):
    """What attention leaves behind."""

    outputs: Tensor  # [n, heads * head_dim], of the tokens with queries
    padded: Tensor  # [padded, head_dim]: queries, keys and values
    kept: list[Tensor]  # probabilities of the first blocks


def attend(heads: Tensor, rows: RowGroups, *, scale: float, keeps: bool) -> Attended:
    """From the heads of queries, keys and values of each token [tokens * heads, head_dim]."""
    padded = heads.index_select(0, rows.places.of_padded)
    outputs = padded.new_empty(rows.num_queries, padded.shape[1])
    kept: list[Tensor] = []
    num_kept = 0
    for block in rows.blocks:
        probabilities = _probabilities(block, padded, scale)
        torch.bmm(probabilities, padded.as_strided(*block.values), out=outputs.as_strided(*block.queries))
        num_kept += probabilities.numel()
        if keeps and num_kept <= MAX_KEPT:
            kept.append(probabilities)
    return Attended(outputs.index_select(0, rows.query_places).view(rows.num_asking, -1), padded, kept)


def of_attended(of_outputs: Tensor, padded: Tensor, kept: list[Tensor], rows: RowGroups, *, scale: float) -> Tensor:
    """The gradient of all heads, from that of the outputs [n, heads * head_dim]."""
    head_dim = padded.shape[1]
    outputs = padded.new_zeros(rows.num_queries, head_dim)
    outputs.index_copy_(0, rows.query_places, of_outputs.view(-1, head_dim))
    of_padded = padded.new_empty(len(padded) + 1, head_dim)
    of_padded[-1] = 0.0  # of queries that nobody asks
    for number, block in reversed([*enumerate(rows.blocks)]):
        probabilities = kept[number] if number < len(kept) else _probabilities(block, padded, scale)
        beta = 0 if block.is_last else 1  # a group's last block, which comes first here, sees all of its keys
        output = outputs.as_strided(*block.queries)
        of_scores = torch.bmm(output, padded.as_strided(*block.values_across))
        torch._softmax_backward_data(of_scores, probabilities, -1, of_scores.dtype, grad_input=of_scores)
        of_padded.as_strided(*block.queries).baddbmm_(of_scores, padded.as_strided(*block.keys), beta=0, alpha=scale)
        queries = padded.as_strided(*block.queries)
        of_padded.as_strided(*block.keys).baddbmm_(of_scores.transpose(1, 2), queries, beta=beta, alpha=scale)
        of_padded.as_strided(*block.values).baddbmm_(probabilities.transpose(1, 2), output, beta=beta)
    return of_padded.index_select(0, rows.places.of_tokens)


def _probabilities(block: QueryBlock, padded: Tensor, scale: float) -> Tensor:
    """[rows, heads * queries, keys]."""
    scores = padded.new_empty(block.scores)
    queries, keys = padded.as_strided(*block.queries), padded.as_strided(*block.keys_across)
    scores.baddbmm_(queries, keys, beta=0, alpha=scale)
    scores.as_strided(*block.diagonal).add_(_later(block.num_queries, scores.dtype))
    return torch.softmax(scores, -1, out=scores)


@lru_cache(maxsize=256)
def _later(num_queries: int, dtype: torch.dtype) -> Tensor:
    """-inf where a key is later than the query, else 0."""
    return torch.full((num_queries, num_queries), -torch.inf, dtype=dtype).triu(1)
