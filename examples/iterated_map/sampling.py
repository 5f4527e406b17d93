"""Sampling from a small model on the CPU: all prompts have the same length, so a batch needs no padding."""

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from services.generation.transformers_engine.decoders.layouts.forward_pass import cache_argument

#: The batch is made smaller when this share of its rows has finished; moving rows costs as much as running them.
_FINISHED_SHARE_TO_RETIRE = 0.25


@torch.no_grad()
def sample_responses(network: Any, prompts: Tensor, *, max_response_length: int, end_id: int) -> list[list[int]]:
    """Sample a response at temperature 1 for each prompt [batch, prompt_length]; ``end_id`` is part of the response."""
    responses: list[list[int]] = [[] for _ in range(len(prompts))]
    alive = torch.arange(len(prompts))
    cache, tokens = DynamicCache(config=network.config), prompts
    caching = {cache_argument(network): cache, "use_cache": True}
    is_finished = torch.zeros(len(prompts), dtype=torch.bool)
    for _ in range(max_response_length):
        logits = network(tokens, **caching, logits_to_keep=1).logits[:, -1]
        tokens = torch.multinomial(logits.softmax(-1), 1)
        _append(responses, alive[~is_finished], tokens[~is_finished, 0])
        is_finished |= tokens[:, 0] == end_id
        if is_finished.all():
            break
        if is_finished.float().mean() >= _FINISHED_SHARE_TO_RETIRE:
            (kept,) = torch.nonzero(~is_finished, as_tuple=True)
            cache.batch_select_indices(kept)
            alive, tokens, is_finished = alive[kept], tokens[kept], is_finished[kept]
    return responses


def _append(responses: list[list[int]], rows: Tensor, tokens: Tensor) -> None:
    for row, token in zip(rows.tolist(), tokens.tolist(), strict=True):
        responses[row].append(token)
