"""Causal attention over rows packed in one line: each row attends to itself alone.

Where several ranks have the line's tokens between them, each attends with some of the heads, over all tokens.

Everything else in a transformer works on single tokens, so the linear layers run once over the whole line and only
attention knows the rows. No [total, total] mask is ever built: where a mask is needed, a row's queries are taken in
blocks, and a block meets the keys that it may see and no others.
"""

import math
from collections.abc import Callable, Iterator
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface, PreTrainedModel
from transformers.utils.import_utils import is_flash_attn_2_available

from learner.models.passes.packing import RowLengths
from learner.parallel.sequence import ALL_TOKENS, SequenceRanks

#: The name under which transformers finds `attend_within_rows`. It is registered without a mask function, and for such
#: names transformers builds no mask.
PACKED_ATTENTION = "rows_in_one_line"
FLASH_ATTENTION = "flash_attention_2"
#: Queries that meet their keys at once where there is a sliding window or a soft cap.
MAX_QUERIES_PER_BLOCK = 512


def attend_within_rows(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    rows: RowLengths | None = None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: object,
) -> tuple[Tensor, None]:
    """Return [1, total, heads, head_dim] for query, key and value [1, heads, total, head_dim].

    Of a rank's tokens alone, where other ranks have others. `s_aux` [heads] are attention sinks, which take a share of
    the probability and give nothing. What else a family hands over is left out, and found by the probe of `loading.py`
    where it changes the result.
    """
    assert query.shape[0] == 1, "rows stand in one line"
    sequence = ALL_TOKENS if rows is None else rows.sequence
    query, key, value = sequence.to_heads(query, *_dividable(sequence.size, key, value))
    s_aux = None if s_aux is None else sequence.own_heads(s_aux)
    lengths = [query.shape[2]] if rows is None else list(rows.lengths)
    num_heads, num_kv_heads = query.shape[1], key.shape[1]
    # The key-value heads become the batch, so that each serves its group of query heads as a view, without a copy.
    groups = query.view(num_kv_heads, num_heads // num_kv_heads, *query.shape[2:])
    keys, values = (tensor.transpose(0, 1).expand(-1, groups.shape[1], -1, -1) for tensor in (key, value))
    sinks = None if s_aux is None else s_aux.view(num_kv_heads, -1, 1, 1)
    attend = _attention_of_one_row(scaling or query.shape[-1] ** -0.5, sliding_window, softcap, sinks)
    of_rows = zip(*(torch.split(tensor, lengths, dim=2) for tensor in (groups, keys, values)), strict=True)
    output = torch.cat([attend(*row) for row in of_rows], dim=2)
    return sequence.to_tokens(output.reshape(1, num_heads, *output.shape[2:]).transpose(1, 2)), None


def _dividable(num_ranks: int, *of_kv_heads: Tensor) -> Iterator[Tensor]:
    """Key-value heads [1, heads, ...], repeated where there are fewer than ranks, or not as many for each."""
    for heads in of_kv_heads:
        times = math.lcm(heads.shape[1], num_ranks) // heads.shape[1]
        yield heads if times == 1 else heads.repeat_interleave(times, dim=1)


def _attention_of_one_row(
    scale: float, sliding_window: int | None, softcap: float | None, sinks: Tensor | None
) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    def fused(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        length = query.shape[2]
        if sliding_window is None or length <= sliding_window:
            return scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale)
        blocks = [
            scaled_dot_product_attention(
                query[:, :, queries], key[:, :, keys], value[:, :, keys], attn_mask=mask, scale=scale
            )
            for queries, keys, mask in _blocks(query, sliding_window)
        ]
        return torch.cat(blocks, dim=2)

    def explicit(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        def attend(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
            scores = queries @ keys.transpose(2, 3) * scale
            if softcap is not None:
                scores = torch.tanh(scores / softcap) * softcap
            return _probabilities(scores + mask, sinks).to(values.dtype) @ values

        blocks = [
            # Kept for the backward pass, the scores of all blocks would be as large as the square of the row.
            checkpoint(
                attend,
                query[:, :, queries],
                key[:, :, keys],
                value[:, :, keys],
                mask,
                use_reentrant=False,
                preserve_rng_state=False,
            )
            for queries, keys, mask in _blocks(query, sliding_window)
        ]
        return torch.cat(blocks, dim=2)

    return fused if softcap is None and sinks is None else explicit


def _probabilities(scores: Tensor, sinks: Tensor | None) -> Tensor:
    """Softmax in float32 over the keys and, where there is one, the head's sink, whose share is dropped."""
    if sinks is None:
        return scores.softmax(-1, dtype=torch.float32)
    with_sink = torch.cat([scores, sinks.expand(*scores.shape[:-1], 1)], dim=-1)
    return with_sink.softmax(-1, dtype=torch.float32)[..., :-1]


def _blocks(query: Tensor, sliding_window: int | None) -> Iterator[tuple[slice, slice, Tensor]]:
    """A row's queries in blocks: the block, the keys that it may see, and the mask to be added to their scores."""
    length = query.shape[2]
    # A window as long as the row hides nothing but what comes later; in powers of two there are few different ones.
    window = sliding_window or 1 << (length - 1).bit_length()
    size = min(window, MAX_QUERIES_PER_BLOCK)
    band = _band(size, window, query.dtype, query.device)
    for start in range(0, length, size):
        stop, first = min(start + size, length), max(0, start - window)
        mask = band[: stop - start, first - start + window : stop - start + window]
        yield slice(start, stop), slice(first, stop), mask


@lru_cache(maxsize=4)
def _band(num_queries: int, window: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """[num_queries, window + num_queries]: 0 where a query sees the key, else -inf; the first query is key `window`.

    One for all blocks, rows and layers. It is of the scores' type: a mask of booleans would be converted, and the copy
    kept for the backward pass, in every layer.
    """
    hidden = torch.full((num_queries, window + num_queries), float("-inf"), dtype=dtype, device=device)
    return hidden.tril(0) + hidden.triu(window + 1)


def packed_attention_for(
    network: PreTrainedModel, compute_dtype: torch.dtype, sequence: SequenceRanks = ALL_TOKENS
) -> str | None:
    """Return the attention implementation that keeps packed rows apart, None where the model's code allows none.

    A model that supports flash attention hands over everything that attention depends on as arguments, not as a mask;
    that is what both implementations need. Flash attention's own packed kernel (it finds the rows in the position
    numbers) is taken on CUDA in bfloat16, where a rank has all tokens of a pass; that branch has not been run on a GPU.
    """
    if not hands_attention_over(network):
        return None
    is_for_kernel = network.device.type == "cuda" and compute_dtype == torch.bfloat16 and sequence.size == 1
    if is_for_kernel and is_flash_attn_2_available():
        return FLASH_ATTENTION
    return PACKED_ATTENTION


def hands_attention_over(network: PreTrainedModel) -> bool:
    """Whether the model's code calls the implementation that is registered, with all that attention depends on."""
    return bool(network._supports_attention_backend and network._supports_flash_attn)


AttentionInterface.register(PACKED_ATTENTION, attend_within_rows)
