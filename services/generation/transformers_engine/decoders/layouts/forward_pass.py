"""The forward pass of a model of transformers, whatever its family calls its arguments."""

import inspect
from typing import Any

import torch
from torch import Tensor

CACHE_ARGUMENTS = ("cache", "past_key_values", "state")  # since transformers 5.24, before, and of RWKV


def cache_argument(model: Any) -> str:
    """The forward pass' name for its KV cache."""
    parameters = inspect.signature(model.forward).parameters
    return next((name for name in CACHE_ARGUMENTS if name in parameters), CACHE_ARGUMENTS[0])


class ForwardPass:
    """Runs tokens [rows, columns] through the model."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._parameters = frozenset(inspect.signature(model.forward).parameters)
        self._cache_argument = cache_argument(model)
        self.config = model.config
        self.device: torch.device = model.device

    def __call__(
        self,
        tokens: Tensor,
        *,
        cache: Any = None,
        mask: Tensor | None = None,
        positions: Tensor | None = None,
        use_cache: bool = True,
    ) -> tuple[Tensor, Any]:
        """Logits [rows, vocabulary] after the last column, and the cache, which holds the tokens now."""
        outputs = self._outputs(tokens, 1, cache=cache, mask=mask, positions=positions, use_cache=use_cache)
        return outputs.logits[:, -1], getattr(outputs, self._cache_argument, None)

    def fill(self, tokens: Tensor, *, cache: Any, mask: Tensor | None, positions: Tensor) -> Any:
        """The cache, which holds the tokens now. No logits, where the family lets them be chosen: a head is large."""
        none = torch.empty(0, dtype=torch.int64, device=tokens.device)
        outputs = self._outputs(tokens, none, cache=cache, mask=mask, positions=positions, use_cache=True)
        return getattr(outputs, self._cache_argument)

    def _outputs(
        self,
        tokens: Tensor,
        kept: int | Tensor,
        *,
        cache: Any,
        mask: Tensor | None,
        positions: Tensor | None,
        use_cache: bool,
    ) -> Any:
        options: dict[str, Any] = {"use_cache": True} if use_cache else {}
        if cache is not None:
            options[self._cache_argument] = cache
        if mask is not None and "attention_mask" in self._parameters:
            options["attention_mask"] = mask
        if positions is not None and "position_ids" in self._parameters:
            options["position_ids"] = positions
        if "logits_to_keep" in self._parameters:
            options["logits_to_keep"] = kept
        return self._model(tokens, **options)
