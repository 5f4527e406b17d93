"""The general path: any causal language model that transformers loads, by its own forward pass and KV cache.

Rows are kept in packs, and the probe chooses at the first weights which packs are right for the model: all rows in one
(`Layout.TOGETHER`), a pack for each (`ALONE`), or no KV cache at all (`UNCACHED`). Models that keep less than the whole
row (sliding windows, recurrent states) cannot be padded safely, so their rows are not put together.
"""

import enum
import inspect
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import DynamicCache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer

from services.generation.transformers_engine.decoders.model_weights import check_fit, named_weights, new_model
from services.generation.transformers_engine.decoders.proof import require_agreement
from tppo.models.probe import ProbeError, rows_for

log = logging.getLogger(__name__)


class Layout(enum.Enum):
    """How the rows that run share forward passes and KV caches."""

    TOGETHER = "rows share a KV cache and a forward pass, padded on the left"
    ALONE = "each row has a KV cache and a forward pass of its own, without padding and mask"
    UNCACHED = "each token takes a forward pass over its whole row, without a KV cache"


@dataclass(eq=False, slots=True)
class Pack:
    """Rows of one KV cache; before their prefill they are only prefixes."""

    prefixes: list[Sequence[int]] | None
    cache: Any  # DynamicCache
    mask: Tensor  # [rows, columns] 1 where the row has a token
    num_cached: int = 0  # tokens of a row that stands alone

    @property
    def num_rows(self) -> int:
        """How many rows it holds."""
        return len(self.mask)

    def keep(self, rows: list[int]) -> None:
        """Drop all rows but these."""
        self.mask = self.mask[rows]
        if self.prefixes is not None:
            self.prefixes = [self.prefixes[row] for row in rows]
            return
        self.cache.batch_select_indices(torch.tensor(rows, device=self.mask.device))
        self._trim()

    def _trim(self) -> None:
        """Cut off the columns on the left that no row uses any more."""
        longest = int(self.mask.sum(dim=1).max())
        if longest < self.mask.shape[1] and all(type(layer) is DynamicLayer for layer in self.cache.layers):
            self.mask = self.mask[:, -longest:]
            for layer in self.cache.layers:
                layer.keys, layer.values = layer.keys[:, :, -longest:], layer.values[:, :, -longest:]

    def join(self, other: "Pack") -> None:
        """Take the other pack's rows behind one's own; both have been prefilled."""
        num_columns = max(self.mask.shape[1], other.mask.shape[1])
        for mine, theirs in zip(self.cache.layers, other.cache.layers, strict=True):
            mine.keys = torch.cat([_padded(mine.keys, num_columns), _padded(theirs.keys, num_columns)])
            mine.values = torch.cat([_padded(mine.values, num_columns), _padded(theirs.values, num_columns)])
        masks = [functional.pad(pack.mask, (num_columns - pack.mask.shape[1], 0)) for pack in (self, other)]
        self.mask = torch.cat(masks)


def _padded(entries: Tensor, num_columns: int) -> Tensor:
    """[rows, heads, columns, size] with empty columns on the left."""
    return functional.pad(entries, (0, 0, num_columns - entries.shape[2], 0))


def cache_argument(model: Any) -> str:
    """The forward pass' name for its KV cache: ``past_key_values`` up to transformers 5.23, ``cache`` since."""
    parameters = inspect.signature(model.forward).parameters
    return "cache" if "cache" in parameters else "past_key_values"


class GeneralDecoder:
    """A `Decoder` around a model of transformers."""

    def __init__(
        self, config: PreTrainedConfig, *, dtype: torch.dtype, device: torch.device, capacity: int | None = None
    ) -> None:
        """`capacity` bounds the rows, and so those of the probe."""
        self._config = config
        model: Any = new_model(config, dtype)
        self._model: Any = model.to(device).eval()
        self._weights = named_weights(self._model)
        self._dtype = dtype
        self._device = device
        self._capacity = capacity
        self._takes_positions = "position_ids" in inspect.signature(self._model.forward).parameters
        self._cache_argument = cache_argument(self._model)
        self.layout: Layout | None = None  # not known before the first weights
        self._packs: list[Pack] = []

    @property
    def vocabulary_size(self) -> int:
        """Token ids are below it."""
        return int(self._config.get_text_config().vocab_size)

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy the tensors over the model's; the first ones decide the layout."""
        check_fit(tensors, {name: weight.shape for name, weight in self._weights.items()})
        for name, weight in self._weights.items():
            weight.data.copy_(tensors[name])
        if self.layout is None:
            self.layout = self._right_layout()
            level = logging.WARNING if self.layout is Layout.UNCACHED else logging.INFO
            log.log(level, "%s: %s", self._config.model_type, self.layout.value)

    def _right_layout(self) -> Layout:
        """The fastest of those whose log-probabilities are the plain forward pass'. Raises `ProbeError`."""
        rows = rows_for(self._model, capacity=self._capacity)
        layers = DynamicCache(config=self._config).layers
        candidates = list(Layout) if all(type(layer) is DynamicLayer for layer in layers) else list(Layout)[1:]
        for layout in candidates:
            self.layout = layout
            try:
                require_agreement(self, self._model, rows, dtype=self._dtype)
            except ProbeError as error:
                cause: Exception = error
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # whatever a family's code raises at a cache or mask that it does not know
                cause = error
            else:
                return layout
            log.info("%s: not %s: %s", self._config.model_type, layout.name, cause)
            self.reset()
        self.layout = None
        raise ProbeError(f"no way to decode {self._config.model_type} is right; the last one: {cause}")

    def reset(self) -> None:
        """Forget all rows."""
        self._packs = []

    def exchange(self, ended: Sequence[int], prefixes: Sequence[Sequence[int]]) -> list[int]:
        """Rows that stay keep their order; new ones follow, and are prefilled in the next step."""
        leaving = set(ended)
        num_before = sum(pack.num_rows for pack in self._packs)
        self._packs = list(self._remaining(leaving))
        groups = [list(prefixes)] if self._joins_rows and prefixes else [[prefix] for prefix in prefixes]
        self._packs += [self._new_pack(group) for group in groups]
        return [row for row in range(num_before + len(prefixes)) if row not in leaving]

    def step(self, tokens: Tensor) -> Tensor:
        """Decode one token of each row; prefill new rows by their whole prefix."""
        parts = torch.split(tokens, [pack.num_rows for pack in self._packs])
        logits = [self._run(pack, part) for pack, part in zip(self._packs, parts, strict=True)]
        if self._joins_rows:
            while len(self._packs) > 1:
                self._packs[0].join(self._packs.pop(1))
        return torch.cat(logits)

    @property
    def _joins_rows(self) -> bool:
        return self.layout is Layout.TOGETHER

    def _remaining(self, leaving: set[int]) -> Iterator[Pack]:
        first = 0
        for pack in self._packs:
            rows = [row for row in range(pack.num_rows) if first + row not in leaving]
            first += pack.num_rows
            if 0 < len(rows) < pack.num_rows:
                pack.keep(rows)
            if rows:
                yield pack

    def _new_pack(self, prefixes: list[Sequence[int]]) -> Pack:
        lengths = torch.tensor([len(prefix) for prefix in prefixes], device=self._device)
        columns = torch.arange(int(lengths.max()), device=self._device)
        mask = (columns >= len(columns) - lengths[:, None]).long()
        return Pack(prefixes, DynamicCache(config=self._config), mask)

    def _run(self, pack: Pack, tokens: Tensor) -> Tensor:
        """Logits [rows, vocabulary] after the last token."""
        if self.layout is Layout.TOGETHER:
            return self._run_padded(pack, tokens)
        if pack.prefixes is None:
            inputs = tokens[:, None]
        else:
            (prefix,) = pack.prefixes
            inputs = torch.tensor([prefix], device=self._device)
        if self.layout is Layout.UNCACHED:
            return self._run_uncached(pack, inputs)
        options = {} if pack.prefixes else {self._cache_argument: pack.cache}
        if self._takes_positions:
            first = pack.num_cached
            options["position_ids"] = torch.arange(first, first + inputs.shape[1], device=self._device)[None]
        outputs = self._model(inputs, use_cache=True, **options)
        pack.cache, pack.prefixes = getattr(outputs, self._cache_argument), None
        pack.num_cached += inputs.shape[1]
        logits: Tensor = outputs.logits
        return logits[:, -1]

    def _run_uncached(self, pack: Pack, inputs: Tensor) -> Tensor:
        """The row so far is kept in the place of its cache."""
        pack.cache = inputs if pack.prefixes is not None else torch.cat([pack.cache, inputs], dim=1)
        pack.prefixes = None
        logits: Tensor = self._model(pack.cache).logits
        return logits[:, -1]

    def _run_padded(self, pack: Pack, tokens: Tensor) -> Tensor:
        if pack.prefixes is None:
            inputs = tokens[:, None]
            pack.mask = torch.cat([pack.mask, pack.mask.new_ones(len(tokens), 1)], dim=1)
        else:
            inputs = torch.zeros_like(pack.mask)
            for row, prefix in enumerate(pack.prefixes):
                inputs[row, -len(prefix) :] = torch.tensor(prefix, device=self._device)
            pack.prefixes = None
        options: dict[str, Any] = {"attention_mask": pack.mask, self._cache_argument: pack.cache, "use_cache": True}
        if self._takes_positions:
            options["position_ids"] = (pack.mask.cumsum(dim=1) - 1).clamp(min=0)[:, -inputs.shape[1] :]
        logits: Tensor = self._model(inputs, **options).logits
        return logits[:, -1]
