"""The frozen body that adapters of a run stand on: read from the model's folder, as the learner sends adapters alone.

The learner computes with body and adapters apart. In float32 the engine serves their sum, which is the same but for the
order of additions; in a coarser type the sum would be rounded to the weights' type, and what an adapter has learnt lost
in it: there the engine computes with both, too.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoConfig, PreTrainedConfig

from services.generation.transformers_engine.decoders.model_weights import check_fit, new_model, weights_in
from tppo.models.adapters import (
    ADAPTER_CONFIG,
    ADAPTER_FILE,
    BODY_FILE,
    DOWN,
    PEFT_PREFIX,
    UP,
    AdaptedLayer,
    Lora,
    adapted_layers,
    has_digest,
    merged_weight,
)
from tppo.run_folder.json_files import read_object
from tppo.weights import WeightUpdate
from tppo.weights.manifest import AdapterFacts


class AdapterLayers:
    """Whether adapters are those of the body in a folder, and fit it; not on an event loop."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._digest = ""
        self._layers: dict[str, AdaptedLayer] = {}  # that may have adapters, by name

    def fitting(self, tensors: Mapping[str, Tensor], adapter: AdapterFacts) -> list[AdaptedLayer]:
        """Layers that the tensors are adapters of. ValueError: the body is another one, or they do not fit it."""
        self._require_body(adapter.body_digest)
        adapted = [layer for name, layer in self._layers.items() if f"{name}.{DOWN}" in tensors]
        shapes = {
            name: shape
            for layer in adapted
            for name, shape in layer.shapes(len(tensors[f"{layer.name}.{DOWN}"])).items()
        }
        check_fit(tensors, shapes)
        return adapted

    def _require_body(self, digest: str) -> None:
        if self._digest == digest:
            return
        if not has_digest(self.folder, digest):
            raise ValueError(
                f"model.path = {self.folder} holds another body than that of the learner's adapters, whose digest is "
                f"{digest}; expected the same files"
            )
        self._layers = linear_layers(AutoConfig.from_pretrained(self.folder, local_files_only=True))
        self._digest = digest


class AdapterBody:
    """Read when the first adapters come; not on an event loop."""

    def __init__(self, folder: Path, dtype: torch.dtype) -> None:
        self._layers, self._dtype = AdapterLayers(folder), dtype
        self._weights: dict[str, Tensor] = {}

    def whole(self, update: WeightUpdate) -> Mapping[str, Tensor]:
        """The weights to be served, with adapters beside them where they are not in the sum.

        ValueError: they are adapters of another body, or do not fit it.
        """
        tensors, adapter = update.tensors, update.adapter
        if adapter is None:
            return tensors
        adapted = self._layers.fitting(tensors, adapter)
        if not self._weights:
            self._weights = weights_in(self._layers.folder, self._dtype)
        if self._dtype != torch.float32:
            scalings = {True: adapter.scaling, False: 1.0}
            return self._weights | {name: one.float() * scalings[name.endswith(UP)] for name, one in tensors.items()}
        return MergedWeights(self._weights, tensors, adapted, scaling=adapter.scaling)


class MergedWeights(Mapping[str, Tensor]):
    """The sum of body and adapters. A weight is added up when it is read: there is never a second body of sums."""

    def __init__(
        self,
        body: Mapping[str, Tensor],
        adapters: Mapping[str, Tensor],
        layers: Sequence[AdaptedLayer],
        *,
        scaling: float,
    ) -> None:
        """`layers`: those that have adapters."""
        self._body, self._adapters, self._scaling = body, adapters, scaling
        self._layers = {f"{layer.name}.weight": layer for layer in layers}

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._layers:
            return self._body[name]
        return merged_weight(self._body[name], self._adapters, self._layers[name], scaling=self._scaling)

    def __iter__(self) -> Iterator[str]:
        return iter(self._body)

    def __len__(self) -> int:
        return len(self._body)


def linear_layers(config: PreTrainedConfig) -> dict[str, AdaptedLayer]:
    """All that may have an adapter, by name."""
    with torch.device("meta"):
        network = new_model(config, torch.float32)
    return {layer.name: layer for layer in adapted_layers(network, Lora(1, 1.0))}


def adapted_model(folder: Path, dtype: torch.dtype) -> Mapping[str, Tensor]:
    """The weights of a folder that holds adapters, with those of their body. ValueError: that is another one."""
    body = read_object(folder / BODY_FILE, {"path": str, "digest": str})
    assert body is not None, "there are adapters"
    facts = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    tensors = {name.removeprefix(PEFT_PREFIX): one for name, one in load_file(folder / ADAPTER_FILE).items()}
    adapter = AdapterFacts(body["digest"], facts["lora_alpha"] / facts["r"])
    update = WeightUpdate(0, incarnation=0, digest="", tensors=tensors, adapter=adapter)
    return dict(AdapterBody(Path(body["path"]), dtype).whole(update))
