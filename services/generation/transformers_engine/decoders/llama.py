"""The fast path: Qwen2, Qwen3 and Llama on a KV cache that is aligned at the rows' ends.

At the sizes that run on a CPU a decode step is mostly overhead, so a step is few operations on large tensors: see
llama_weights.py for what is folded, kv_cache.py for the cache and attention_groups.py for rows of mixed lengths.
The same code runs on CUDA; it is tested on the CPU.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedConfig

from services.generation.transformers_engine.decoders.attention_groups import Rectangle, Rectangles
from services.generation.transformers_engine.decoders.decoder import NUM_PROBE_ROWS, Free, Switch, assigned_places, keep
from services.generation.transformers_engine.decoders.kv_cache import AlignedCache
from services.generation.transformers_engine.decoders.llama_weights import (
    Dimensions,
    Layer,
    LlamaWeights,
    WeightArranger,
)
from services.generation.transformers_engine.decoders.model_weights import (
    apart,
    check_fit,
    model_with,
    new_model,
    weight_shapes,
)
from services.generation.transformers_engine.decoders.prefill import PrefillRow, flat_passes, prefill_rows
from services.generation.transformers_engine.decoders.proof import require_agreement
from tppo.models.llama_blocks import has_llama_blocks
from tppo.models.probe import rows_for

GROUP_OVERHEAD_BYTES = 384 * 1024  # one more attention call takes about as long as reading this much cache
STEPS_BETWEEN_SORTS = 32
MASKED_QUERIES = 512  # in one attention call with a mask, which is as large as they times the row


def is_supported(config: PreTrainedConfig) -> bool:
    """Whether the fast path computes exactly what the model does."""
    return has_llama_blocks(config) and getattr(config, "pretraining_tp", 1) == 1


def rotation_table(config: PreTrainedConfig, *, num_positions: int) -> Tensor:
    """[positions, head_dim / 2] complex: what the model's own rotary embedding multiplies pairs of channels with."""
    with torch.device("meta"):
        rotary_class: Any = type(new_model(config, torch.float32).model.rotary_emb)
    cosine, sine = rotary_class(config)(torch.empty(0), torch.arange(num_positions)[None])
    half = cosine.shape[-1] // 2
    return torch.complex(cosine[0, :, :half].contiguous(), sine[0, :, :half].contiguous())


class LlamaDecoder:
    """A `Decoder` with its own forward pass."""

    def __init__(
        self, config: PreTrainedConfig, *, num_slots: int, capacity: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self._config = config
        self._is_proven = False
        self.num_prefilled = 0
        self._num_slots, self._capacity = num_slots, capacity
        self._dimensions = Dimensions.of(config)
        self._shapes = weight_shapes(config)
        self._dtype = dtype
        self._device = device
        self._rotations = rotation_table(config, num_positions=capacity).to(device)
        self._cache = AlignedCache(
            num_layers=self._dimensions.num_layers,
            num_slots=num_slots + NUM_PROBE_ROWS,
            num_kv_heads=self._dimensions.num_kv_heads,
            head_dim=self._dimensions.head_dim,
            dtype=dtype,
            device=device,
        )
        self._weights: LlamaWeights
        self._positions = torch.zeros(0, dtype=torch.int64, device=device)  # [rows], of the next token
        self._prefixes: list[Sequence[int]] = []  # of the rows when they came; empty where other weights prefilled them
        self._steps_since_sort = 0
        position_bytes = 2 * self._dimensions.num_kv_heads * self._dimensions.head_dim * dtype.itemsize
        self._rectangles = Rectangles(self._cache, overhead=GROUP_OVERHEAD_BYTES // position_bytes)

    @property
    def vocabulary_size(self) -> int:
        """Rows of the embedding."""
        return self._shapes["model.embed_tokens.weight"][0]

    def prepare(self, tensors: Mapping[str, Tensor], free: Free = keep) -> Switch:
        """Arrange the tensors, none of which is kept; with the first ones the decoder is proved right."""
        plain, adapters = apart(tensors, self._device)
        check_fit(plain, self._shapes)
        is_first = not self._is_proven
        arranger = WeightArranger(plain, self._dimensions, dtype=self._dtype, device=self._device, adapters=adapters)
        arranged = arranger.weights(keep if is_first else free)
        model: Any = model_with(self._config, plain, self._dtype, self._device, adapters) if is_first else None
        return partial(self._switch, arranged, model)

    def _switch(self, arranged: LlamaWeights, model: Any) -> object:
        replaced, self._weights = getattr(self, "_weights", None), arranged
        self._prefixes = [()] * len(self._prefixes)
        if not self._is_proven:
            rows = rows_for(model, capacity=self._capacity)
            require_agreement(self, model, rows, dtype=self._dtype, num_slots=self._num_slots)
            self._is_proven = True
            self.num_prefilled = 0
        return replaced

    def reset(self) -> None:
        """Forget all rows and the contents of the cache."""
        self._cache.reset()
        self._prefixes = []
        self._arrange()

    def drop_weights(self) -> None:
        """Of the tensors that they came in nothing was kept."""
        self.__dict__.pop("_weights", None)

    def exchange(self, ended: Sequence[int], prefixes: Sequence[Sequence[int]]) -> list[int]:
        """Prefill the new rows in the places of the ended ones, and move the last rows into those that remain."""
        num_before = len(self._cache.lengths)
        order = self._assign_places(ended, [len(prefix) for prefix in prefixes])
        everyone = [*self._prefixes, *prefixes]
        self._prefixes = [everyone[source] for source in order]
        new = prefill_rows(self._prefixes, [place for place, source in enumerate(order) if source >= num_before])
        self._cache.make_room(before=max((row.length for row in new), default=0))
        for row in new:
            self._cache.set_row(row.place, row.length)
        for rows in flat_passes(new):
            self._prefill(rows)
        for row in new:
            if not row.tokens:
                self._cache.copy_beginning(row.source, row.place, row.num_shared)
        self.num_prefilled += sum(len(row.tokens) for row in new)
        order = self._sort(order)
        self._arrange()
        return order

    def step(self, tokens: Tensor) -> Tensor:
        """Decode: run one token of each row through the layers."""
        column = self._cache.open_column()
        rectangles = self._rectangles.around(column)
        rotation = self._rotations.index_select(0, self._positions).unsqueeze(1)
        hidden = functional.embedding(tokens, self._weights.embedding)
        for index, layer in enumerate(self._weights.layers):
            heads = self._heads(layer, hidden, rotation)
            self._cache.entries[index, :, : len(tokens), :, column] = self._keys_and_values(heads).transpose(0, 1)
            hidden = _finish_layer(layer, hidden, self._attend(index, heads, rectangles))
        self._positions += 1
        self._steps_since_sort += 1
        return self._weights.head(self._weights.norm(hidden))

    def _assign_places(self, ended: Sequence[int], lengths: Sequence[int]) -> list[int]:
        """Which row, by its index among the old ones followed by the new, stands in each place."""
        num_before = len(self._cache.lengths)
        longest_first = sorted(range(len(lengths)), key=lambda index: -lengths[index])
        order = assigned_places(num_before, ended, [num_before + index for index in longest_first])
        for place in ended:
            self._cache.clear_row(place)
        for place, source in enumerate(order):
            if place != source < num_before:
                self._cache.move_row(source, place)
        self._cache.truncate(len(order))
        return order

    def _sort(self, order: list[int]) -> list[int]:
        """Now and then, sort the rows by length: neighbours of like length share an attention call at little loss."""
        lengths = self._cache.lengths
        if self._steps_since_sort < STEPS_BETWEEN_SORTS:
            return order
        self._steps_since_sort = 0
        longest_first = sorted(range(len(order)), key=lambda row: -lengths[row])
        self._cache.permute(longest_first)
        self._prefixes = [self._prefixes[row] for row in longest_first]
        return [order[row] for row in longest_first]

    def _arrange(self) -> None:
        """Split the rows into groups."""
        self._positions = torch.tensor(self._cache.lengths, dtype=torch.int64, device=self._device)
        self._rectangles.arrange()

    def _heads(self, layer: Layer, hidden: Tensor, rotation: Tensor) -> Tensor:
        """Queries, keys and values [tokens, heads, head_dim], rotated to their positions."""
        sizes = self._dimensions
        heads = layer.qkv(layer.attention_norm(hidden)).view(len(hidden), -1, sizes.head_dim)
        rotated = heads[:, : sizes.num_heads + sizes.num_kv_heads]
        if layer.head_norm is not None:
            rotated.copy_(layer.head_norm(rotated))
        _rotate(rotated, rotation)
        return heads

    def _keys_and_values(self, heads: Tensor) -> Tensor:
        """[tokens, 2, kv_heads, head_dim], the last of `heads`."""
        num_kv_heads = self._dimensions.num_kv_heads
        return heads[:, -2 * num_kv_heads :].view(len(heads), 2, num_kv_heads, -1)

    def _queries(self, heads: Tensor) -> Tensor:
        """[tokens, kv_heads, query heads of each, head_dim]."""
        sizes = self._dimensions
        return heads[:, : sizes.num_heads].view(len(heads), sizes.num_kv_heads, -1, sizes.head_dim)

    def _attend(self, index: int, heads: Tensor, rectangles: list[Rectangle]) -> Tensor:
        """[rows, heads * head_dim]; the query heads of one key head stand in as its query positions."""
        queries = self._queries(heads)
        parts = [
            functional.scaled_dot_product_attention(
                queries[part.rows], part.keys[index], part.values[index], attn_mask=part.mask
            )
            for part in rectangles
        ]
        return torch.cat(parts).flatten(1)

    def _prefill(self, rows: Sequence[PrefillRow]) -> None:
        """Prefill: run the rows' tokens flat through the layers; of the last one only keys and values are needed."""
        device = self._device
        tokens = torch.tensor(list(chain.from_iterable(row.tokens for row in rows)), device=device)
        positions = torch.cat([torch.arange(row.num_shared, row.length, device=device) for row in rows])
        rotation = self._rotations.index_select(0, positions).unsqueeze(1)
        hidden = functional.embedding(tokens, self._weights.embedding)
        *layers, last = self._weights.layers
        for index, layer in enumerate(layers):
            heads = self._heads(layer, hidden, rotation)
            self._store(index, rows, heads)
            parts = torch.split(heads, [len(row.tokens) for row in rows])
            attended = [
                self._attend_beyond(index, row, part) if row.num_shared else self._attend_within(part)
                for row, part in zip(rows, parts, strict=True)
            ]
            hidden = _finish_layer(layer, hidden, torch.cat(attended))
        self._store(len(layers), rows, self._heads(last, hidden, rotation))

    def _store(self, index: int, rows: Sequence[PrefillRow], heads: Tensor) -> None:
        lengths = [len(row.tokens) for row in rows]
        end = self._cache.end
        for row, entries in zip(rows, torch.split(self._keys_and_values(heads), lengths), strict=True):
            columns = slice(end - len(row.tokens), end)
            self._cache.entries[index, :, row.place, :, columns] = entries.permute(1, 2, 0, 3)
            if row.num_shared:
                self._cache.copy_beginning(row.source, row.place, row.num_shared, layer=index)

    def _attend_within(self, heads: Tensor) -> Tensor:
        """Causal attention of one row over itself, [tokens, heads * head_dim]."""
        queries = self._queries(heads).permute(1, 2, 0, 3)
        entries = self._keys_and_values(heads).permute(1, 2, 0, 3).unsqueeze(2)
        keys, values = entries.expand(-1, -1, queries.shape[1], -1, -1)
        attended = functional.scaled_dot_product_attention(queries, keys, values, is_causal=True)
        return attended.permute(2, 0, 1, 3).flatten(1)

    def _attend_beyond(self, index: int, row: PrefillRow, heads: Tensor) -> Tensor:
        """Causal attention of one row's own tokens to what it shares and to themselves, [tokens, heads * head_dim]."""
        queries = self._queries(heads).permute(1, 2, 0, 3)
        keys, values = self._cache.row(row.place)[index].unsqueeze(2).expand(-1, -1, queries.shape[1], -1, -1)
        attended = []
        for first in range(0, len(row.tokens), MASKED_QUERIES):
            part = queries[:, :, first : first + MASKED_QUERIES]
            before = row.num_shared + first
            seen = before + part.shape[2]
            mask = torch.ones(part.shape[2], seen, dtype=torch.bool, device=heads.device).tril(before)
            attended.append(
                functional.scaled_dot_product_attention(part, keys[:, :, :seen], values[:, :, :seen], attn_mask=mask)
            )
        return torch.cat(attended, dim=2).permute(2, 0, 1, 3).flatten(1)


def _rotate(heads: Tensor, rotation: Tensor) -> None:
    """Multiply pairs of channels with complex numbers, in place.

    In another type than float32 each product and each sum is rounded, as transformers' models round them: the learner's
    log-probabilities are theirs.
    """
    if heads.dtype == torch.float32:
        torch.view_as_complex(heads.view(*heads.shape[:-1], -1, 2)).mul_(rotation)
        return
    first, second = heads.view(*heads.shape[:-1], -1, 2).unbind(-1)
    cosine, sine = rotation.real.to(heads.dtype), rotation.imag.to(heads.dtype)
    rotated = first * cosine - second * sine, second * cosine + first * sine
    heads.copy_(torch.stack(rotated, dim=-1).flatten(-2))


def _finish_layer(layer: Layer, hidden: Tensor, attended: Tensor) -> Tensor:
    hidden = hidden + layer.output(attended)
    gate, up = layer.gate_up(layer.mlp_norm(hidden)).chunk(2, dim=-1)
    return hidden + layer.down(functional.silu(gate) * up)
