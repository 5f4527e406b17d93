"""Rows that decode together in one forward pass, on a cache that is aligned at their ends.

New rows are prefilled on the side, without their last token, and copied in. Rows with the same prefix, the samples of
one prompt, are prefilled once: those that come together, and those that come while one of them still runs.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from services.generation.transformers_engine.decoders.attention_groups import split_into_groups
from services.generation.transformers_engine.decoders.decoder import assigned_places
from services.generation.transformers_engine.decoders.layouts.aligned_layers import AlignedLayer
from services.generation.transformers_engine.decoders.layouts.forward_pass import ForwardPass
from services.generation.transformers_engine.decoders.prefill import PREFILL_TOKENS

MASKED_COLUMNS = 512  # of a row with a sliding window, in one pass: a mask is as large as they times what they look at
PASS_OVERHEAD = 64  # one more pass takes about as long as this many tokens of padding

Body = tuple[int, ...]  # a prefix without its last token: what prefill computes


class TogetherRows:
    """`pads`: prefixes of several lengths may share a pass, padded on the left."""

    def __init__(self, forward: ForwardPass, *, pads: bool) -> None:
        self._forward = forward
        self._pads = pads
        self._cache: Any = aligned_cache(forward.config)
        self._layers: list[Any] = [layer for layer in self._cache.layers if hasattr(layer, "take")]
        self._has_attention = any(isinstance(layer, AlignedLayer) for layer in self._layers)
        has_state = not all(type(layer) is AlignedLayer for layer in self._layers)  # made of a whole row at once
        self._prefills_in_parts = not has_state and any(layer.is_sliding for layer in self._layers)
        self._lengths: list[int] = []  # tokens in the cache, of each row
        self._bodies: list[Body] = []  # what the rows were prefilled with; empty where other weights did it
        self._num_cached = torch.zeros(0, dtype=torch.int64, device=forward.device)  # [rows], the lengths
        self.num_prefilled = 0

    def exchange(self, ended: Sequence[int], prefixes: Sequence[Sequence[int]]) -> list[int]:
        """New rows take the places of ended ones, and the last rows those that remain."""
        num_before = len(self._lengths)
        order = assigned_places(num_before, ended, range(num_before, num_before + len(prefixes)))
        new = {
            place: tuple(prefixes[source - num_before][:-1])
            for place, source in enumerate(order)
            if source >= num_before
        }
        self._rearrange(order, new)
        missing = self._copy_from_running(new)
        for bodies in self._passes(set(missing.values())):
            self._prefill(bodies, missing)
        self._num_cached = torch.tensor(self._lengths, dtype=torch.int64, device=self._forward.device)
        return order

    def step(self, tokens: Tensor) -> Tensor:
        """Decode one token of each row."""
        self._lengths = [length + 1 for length in self._lengths]
        self._num_cached += 1
        mask = _mask(self._num_cached, max(self._lengths)) if self._has_attention else None
        positions = self._num_cached[:, None] - 1
        logits, _ = self._forward(tokens[:, None], cache=self._cache, mask=mask, positions=positions)
        return logits

    def forget_prefixes(self) -> None:
        """Other weights are in use: what was prefilled before is not what they would compute."""
        self._bodies = [()] * len(self._bodies)

    def _rearrange(self, order: Sequence[int], new: Mapping[int, Body]) -> None:
        """Move rows into gaps, and make room for the new ones."""
        moved = [(source, place) for place, source in enumerate(order) if place not in new and source != place]
        lengths = [len(new[place]) if place in new else self._lengths[source] for place, source in enumerate(order)]
        self._bodies = [new[place] if place in new else self._bodies[source] for place, source in enumerate(order)]
        self._lengths = lengths
        for layer in self._layers:
            if moved:
                layer.move(*(self._indices(rows) for rows in zip(*moved, strict=True)))
            layer.resize(len(order), max(lengths, default=0))
            if new and hasattr(layer, "clear"):
                layer.clear(self._indices(new))

    def _copy_from_running(self, new: Mapping[int, Body]) -> dict[int, Body]:
        """Rows that have not begun as a row does that runs, and are to be prefilled."""
        missing = {place: body for place, body in new.items() if body}
        if not all(type(layer) is AlignedLayer for layer in self._layers):
            return missing  # a recurrent state is that of the whole row
        running = [place for place, body in enumerate(self._bodies) if body and place not in new]
        for place, body in list(missing.items()):
            source = next((row for row in running if self._holds(row, body)), None)
            if source is not None:
                for layer in self._layers:
                    layer.copy_beginning(source, place, length=self._lengths[source], num_tokens=len(body))
                del missing[place]
        return missing

    def _holds(self, row: int, body: Body) -> bool:
        """Whether the row begins like this, and no window has left its beginning behind."""
        kept = min((layer.num_kept for layer in self._layers), default=0)
        return self._lengths[row] <= kept and self._bodies[row][: len(body)] == body

    def _passes(self, bodies: set[Body]) -> Iterator[list[Body]]:
        """Those that share a pass of at most `PREFILL_TOKENS` tokens, or of one row."""
        longest_first = sorted(bodies, key=len, reverse=True)
        groups = [list(group) for _, group in groupby(longest_first, key=len)]
        if self._pads and len(groups) > 1:
            parts = split_into_groups([len(body) for body in longest_first], overhead=PASS_OVERHEAD)
            groups = [longest_first[part.start : part.stop] for part in parts]
        for group in groups:
            num_rows = max(1, PREFILL_TOKENS // len(group[0]))
            yield from (group[first : first + num_rows] for first in range(0, len(group), num_rows))

    def _prefill(self, bodies: Sequence[Body], missing: Mapping[int, Body]) -> None:
        lengths = torch.tensor([len(body) for body in bodies], device=self._forward.device)
        num_columns = int(lengths.max())
        padded = [[0] * (num_columns - len(body)) + list(body) for body in bodies]
        is_ragged = any(len(body) < num_columns for body in bodies)
        mask = _mask(lengths, num_columns)
        tokens, positions = torch.tensor(padded, device=mask.device), (mask.cumsum(dim=1) - 1).clamp(min=0)
        size = MASKED_COLUMNS if self._prefills_in_parts else num_columns
        cache: Any = DynamicCache(config=self._forward.config)
        for start in range(0, num_columns, size):
            columns = slice(start, start + size)
            seen = mask[:, : start + size] if is_ragged else None
            cache = self._forward.fill(tokens[:, columns], cache=cache, mask=seen, positions=positions[:, columns])
        rows = {body: row for row, body in enumerate(bodies)}
        places = [place for place, body in missing.items() if body in rows]
        sources = [rows[missing[place]] for place in places]
        for layer, filled in zip(self._cache.layers, cache.layers, strict=True):
            if hasattr(layer, "take"):
                layer.take(filled, self._indices(sources), self._indices(places))
        self.num_prefilled += int(lengths.sum())

    def _indices(self, rows: Any) -> Tensor:
        return torch.tensor(list(rows), dtype=torch.int64, device=self._forward.device)


def _mask(lengths: Tensor, num_columns: int) -> Tensor:
    """[rows, columns] 1 where a row has a token, in the columns on the right."""
    columns = torch.arange(num_columns, device=lengths.device)
    return (columns >= num_columns - lengths[:, None]).long()


def aligned_cache(config: PreTrainedConfig) -> DynamicCache:
    """An empty cache with aligned layers. TypeError: the family has layers of another kind."""
    cache = DynamicCache(config=config)
    cache.layers = [_aligned(layer) for layer in cache.layers]
    return cache


def _aligned(layer: Any) -> Any:
    kind = type(layer)
    if kind is DynamicLayer:
        return AlignedLayer()
    if kind is DynamicSlidingWindowLayer:
        return AlignedLayer(layer.sliding_window)
    if kind.__name__ == "DummyLayer":  # a layer without attention, or with that of another one
        return layer
    if kind.__name__.startswith("LinearAttention"):
        from services.generation.transformers_engine.decoders.layouts.state_layers import aligned_state_layer

        return aligned_state_layer(layer)
    raise TypeError(f"a cache layer of the kind {kind.__name__}, which is not known here")
