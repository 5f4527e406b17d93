"""Causal attention over rows packed in one line: each row attends to itself alone.

Everything else in a transformer works on single tokens, so the linear layers run once over the whole line and only
attention knows the rows. No [total, total] mask is ever built.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel
from transformers.utils.import_utils import is_flash_attn_2_available

#: The name under which transformers finds `attend_within_rows`. It is registered without a mask function, and for such
#: names transformers builds no mask.
PACKED_ATTENTION = "rows_in_one_line"
FLASH_ATTENTION = "flash_attention_2"


def attend_within_rows(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    row_lengths: Sequence[int] | None = None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **_: object,
) -> tuple[Tensor, None]:
    """Return [1, total, heads, head_dim] for query, key and value [1, heads, total, head_dim]."""
    assert query.shape[0] == 1, "rows stand in one line"
    lengths = list(row_lengths or [query.shape[2]])
    num_heads, num_kv_heads = query.shape[1], key.shape[1]
    # The key-value heads become the batch, so that each serves its group of query heads as a view, without a copy.
    groups = query.view(num_kv_heads, num_heads // num_kv_heads, *query.shape[2:])
    keys, values = (tensor.transpose(0, 1).expand(-1, groups.shape[1], -1, -1) for tensor in (key, value))
    attend = _attention_of_one_row(scaling or query.shape[-1] ** -0.5, sliding_window, softcap)
    rows = zip(*(torch.split(tensor, lengths, dim=2) for tensor in (groups, keys, values)), strict=True)
    output = torch.cat([attend(*row) for row in rows], dim=2)
    return output.reshape(1, num_heads, *output.shape[2:]).transpose(1, 2), None


def _attention_of_one_row(
    scale: float, sliding_window: int | None, softcap: float | None
) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    def fused(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        length = query.shape[2]
        if sliding_window is None or length <= sliding_window:
            return scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale)
        mask = _visible(length, sliding_window, query.device)
        return scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)

    def with_softcap(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        assert softcap is not None
        scores = torch.tanh(query @ key.transpose(2, 3) * scale / softcap) * softcap
        scores = scores.masked_fill(~_visible(query.shape[2], sliding_window, query.device), float("-inf"))
        return scores.softmax(-1, dtype=torch.float32).to(value.dtype) @ value

    return fused if softcap is None else with_softcap


def _visible(length: int, sliding_window: int | None, device: torch.device) -> Tensor:
    """Return [length, length] bool: True where the query (first index) sees the key (second)."""
    causal = torch.ones(length, length, dtype=torch.bool, device=device).tril()
    return causal if sliding_window is None else causal.triu(1 - sliding_window)


def packed_attention_for(network: PreTrainedModel) -> str | None:
    """Return the attention implementation that keeps packed rows apart, None where the model's code allows none.

    A model that supports flash attention hands over everything that attention depends on as arguments, not as a mask;
    that is what both implementations need. Flash attention's own packed kernel (it finds the rows in the position
    numbers) is taken on CUDA in half precision; that branch has not been run on a GPU.
    """
    if not (network._supports_attention_backend and network._supports_flash_attn):
        return None
    is_half = network.dtype in (torch.float16, torch.bfloat16)
    if network.device.type == "cuda" and is_half and is_flash_attn_2_available():
        return FLASH_ATTENTION
    return PACKED_ATTENTION


AttentionInterface.register(PACKED_ATTENTION, attend_within_rows)
