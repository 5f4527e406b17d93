"""The general path: any causal language model that transformers loads, by its own forward pass and KV cache.

The probe chooses at the first weights how the model's rows may share forward passes and caches: the fastest `Layout`
whose log-probabilities are those of the plain forward pass.
"""

import enum
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from services.generation.transformers_engine.decoders.decoder import Free, Switch, keep
from services.generation.transformers_engine.decoders.layouts.forward_pass import ForwardPass
from services.generation.transformers_engine.decoders.layouts.separate import SeparateRows
from services.generation.transformers_engine.decoders.layouts.stacked import StackedRows
from services.generation.transformers_engine.decoders.layouts.together import TogetherRows
from services.generation.transformers_engine.decoders.model_weights import (
    Adapter,
    apart,
    check_fit,
    model_with,
    named_weights,
    weight_shapes,
)
from services.generation.transformers_engine.decoders.proof import require_agreement
from tppo.models.probe import ProbeError, rows_for
from tppo.weight_probe import ProbeRow

log = logging.getLogger(__name__)


class Rows(Protocol):
    """The rows that run, in one of the layouts."""

    num_prefilled: int

    def exchange(self, ended: Sequence[int], prefixes: Sequence[Sequence[int]]) -> list[int]:
        """As `Decoder.exchange`."""
        ...

    def step(self, tokens: Tensor) -> Tensor:
        """As `Decoder.step`."""
        ...

    def forget_prefixes(self) -> None:
        """Share nothing that was prefilled before."""
        ...


class Layout(enum.Enum):
    """How the rows that run share forward passes and KV caches; the fastest first."""

    TOGETHER = "rows share a KV cache and each forward pass, padded on the left"
    JOINED = (
        "rows share a KV cache and each decode step; prefixes of one length are prefilled together, without padding"
    )
    STACKED = "rows share each decode step, on states of a kind of the family's own"
    ALONE = "each row has a KV cache and a forward pass of its own, without padding and mask"
    UNCACHED = "each token takes a forward pass over its whole row, without a KV cache"

    def rows(self, forward: ForwardPass) -> Rows:
        """No rows yet, of this layout. TypeError: the family's cache is not known to it."""
        makers: dict[Layout, Callable[[], Rows]] = {
            Layout.TOGETHER: lambda: TogetherRows(forward, pads=True),
            Layout.JOINED: lambda: TogetherRows(forward, pads=False),
            Layout.STACKED: lambda: StackedRows(forward),
            Layout.ALONE: lambda: SeparateRows(forward, has_cache=True),
            Layout.UNCACHED: lambda: SeparateRows(forward, has_cache=False),
        }
        return makers[self]()


CANDIDATES = tuple(Layout)


class GeneralDecoder:
    """A `Decoder` around a model of transformers."""

    def __init__(
        self, config: PreTrainedConfig, *, dtype: torch.dtype, device: torch.device, capacity: int | None = None
    ) -> None:
        """`capacity` bounds the rows, and so those of the probe."""
        self._config = config
        self._shapes = weight_shapes(config)
        self._dtype = dtype
        self._device = device
        self._capacity = capacity
        self.weights: dict[str, Tensor] = {}  # of the model, which the first weights make
        self._adapters: dict[str, Adapter] = {}  # which it adds in each pass
        self._adapted = frozenset[str]()  # layers that can add one
        self._forward: ForwardPass
        self.layout: Layout | None = None  # not known before the first weights
        self._rows: Rows

    @property
    def vocabulary_size(self) -> int:
        """Token ids are below it."""
        return int(self._config.get_text_config().vocab_size)

    @property
    def num_prefilled(self) -> int:
        """Tokens that prefill has computed."""
        return self._rows.num_prefilled if self.layout is not None else 0

    def prepare(self, tensors: Mapping[str, Tensor], free: Free = keep) -> Switch:
        """The tensors themselves are used, or converted ones; the first ones make the model and decide the layout."""
        plain, adapters = apart(tensors, self._device)
        check_fit(plain, self._shapes)
        if self.layout is None:
            model = model_with(self._config, plain, self._dtype, self._device, adapters)
            return partial(self._begin, model, adapters)
        if others := sorted(adapters.keys() - self._adapted):
            raise ValueError(f"adapters of layers that had none before, such as {others[0]}")
        converted = dict[str, Tensor]()
        for name, weight in self.weights.items():
            tensor = plain[name]
            converted[name] = tensor.to(weight.device, weight.dtype)
            if converted[name] is not tensor:
                free({name})
        return partial(self._replace, converted, adapters)

    def _begin(self, model: Any, adapters: dict[str, Adapter]) -> None:
        self.weights, self._adapters, self._adapted = named_weights(model), adapters, frozenset(adapters)
        self._forward = ForwardPass(model)
        self._choose_layout(model, rows_for(model, capacity=self._capacity))

    def _replace(self, tensors: Mapping[str, Tensor], adapters: Mapping[str, Adapter]) -> object:
        replaced = {name: weight.data for name, weight in self.weights.items()}
        self._adapters.clear()
        self._adapters.update(adapters)
        for name, weight in self.weights.items():
            weight.data = tensors[name]
        self._rows.forget_prefixes()
        return replaced

    def reset(self) -> None:
        """Forget all rows."""
        if self.layout is not None:
            num_prefilled = self._rows.num_prefilled
            self._rows = self.layout.rows(self._forward)
            self._rows.num_prefilled = num_prefilled

    def drop_weights(self) -> None:
        """The model stays, with tensors of no size."""
        for weight in self.weights.values():
            weight.data = weight.data.new_empty(0)

    def exchange(self, ended: Sequence[int], prefixes: Sequence[Sequence[int]]) -> list[int]:
        """As the layout puts them."""
        return self._rows.exchange(ended, prefixes)

    def step(self, tokens: Tensor) -> Tensor:
        """Decode one token of each row."""
        return self._rows.step(tokens)

    def _choose_layout(self, model: Any, rows: Sequence[ProbeRow]) -> None:
        """The fastest of those whose log-probabilities are the plain forward pass'. Raises `ProbeError`."""
        for layout in CANDIDATES:
            try:
                self._rows = layout.rows(self._forward)
                self.layout = layout
                require_agreement(self, model, rows, dtype=self._dtype)
            except ProbeError as error:
                cause: Exception = error
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # whatever a family's code raises at a cache or mask that it does not know
                cause = error
            else:
                self._rows.num_prefilled = 0
                level = logging.WARNING if layout is Layout.UNCACHED else logging.INFO
                log.log(level, "%s: %s", self._config.model_type, layout.value)
                return
            self.layout = None
            log.info("%s: not %s: %s", self._config.model_type, layout.name, cause)
        raise ProbeError(f"no way to decode {self._config.model_type} is right; the last one: {cause}")
