"""In which form vLLM is given the weights of an update: all tensors by its protocol for them, or a LoRA adapter.

vLLM has one adapter, on the body that it has loaded from the model's folder, and each update replaces its tensors in
place: so windows that run go on with the new ones, as they do with whole weights, and vLLM names the version of each
token in the same way. An adapter with an id of its own for each version would hold a window to its first version.
"""

import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoConfig
from vllm.distributed.weight_transfer.base import WeightTransferUpdateRequest
from vllm.lora.request import LoRARequest

from services.generation.transformers_engine.decoders.model_weights import check_fit, weight_shapes
from services.generation.weights.adapter_body import AdapterLayers
from tppo.models.adapters import ADAPTER_CONFIG, ADAPTER_FILE, DOWN, PEFT_PREFIX, AdaptedLayer
from tppo.weights import WeightUpdate
from tppo.weights.manifest import AdapterFacts

ADAPTER_ID = 1  # of the one adapter


class WholeWeights:
    """All tensors of the model in `model`."""

    def __init__(self, model: Path) -> None:
        self._shapes = weight_shapes(AutoConfig.from_pretrained(model, local_files_only=True))

    def prepared(self, update: WeightUpdate) -> str:
        """Where vLLM finds them; not on an event loop. ValueError: they do not fit, or cannot be shared."""
        if update.adapter is not None:
            raise ValueError("adapters have come; expected a whole model, as actor.lora_rank is 0")
        check_fit(update.tensors, self._shapes)
        if not (path := update.shared_path()):
            raise ValueError("the weights lie in memory that cannot be shared with vLLM's processes")
        return path

    async def load(self, core: Any, path: str) -> None:
        """Between the beginning and the end of an update."""
        await core.update_weights(WeightTransferUpdateRequest(update_info={"path": path}))

    def close(self) -> None:
        """They lie in memory of the updates."""


class AdapterFiles:
    """Adapters of the body in `model`, in a folder as peft writes it."""

    def __init__(self, model: Path) -> None:
        self._layers = AdapterLayers(model)
        self._folder = TemporaryDirectory(prefix="tppo-adapter-")

    def prepared(self, update: WeightUpdate) -> str:
        """As `WholeWeights.prepared`. ValueError: they are of another body, or do not fit it."""
        if update.adapter is None:
            raise ValueError("a whole model has come; expected adapters, as actor.lora_rank is above 0")
        layers = self._layers.fitting(update.tensors, update.adapter)
        folder = Path(self._folder.name)
        save_file({f"{PEFT_PREFIX}{name}": one for name, one in update.tensors.items()}, folder / ADAPTER_FILE)
        content = json.dumps(_config(update.tensors, update.adapter, layers))
        (folder / ADAPTER_CONFIG).write_text(content, encoding="utf-8")
        return str(folder)

    async def load(self, core: Any, path: str) -> None:
        """As `WholeWeights.load`."""
        if not await core.add_lora(_adapter(path, load_inplace=True)):
            raise RuntimeError("vLLM has not loaded the adapter")

    def close(self) -> None:
        """They are read no more."""
        self._folder.cleanup()

    def adapting(self, core: Any) -> "AdaptedCore":
        """vLLM with the adapter."""
        return AdaptedCore(core, _adapter(self._folder.name))


class AdaptedCore:
    """vLLM's `AsyncLLM`, each of whose requests bears the adapter."""

    def __init__(self, core: Any, adapter: LoRARequest) -> None:
        self._core, self._adapter = core, adapter

    def generate(self, prompt: Any, parameters: Any, request_id: str) -> AsyncIterator[Any]:
        """As `AsyncLLM.generate`."""
        outputs: AsyncIterator[Any] = self._core.generate(prompt, parameters, request_id, lora_request=self._adapter)
        return outputs

    def __getattr__(self, name: str) -> Any:
        return getattr(self._core, name)


def _adapter(folder: str, *, load_inplace: bool = False) -> LoRARequest:
    return LoRARequest("policy", ADAPTER_ID, folder, load_inplace=load_inplace)


def _config(tensors: Mapping[str, Tensor], adapter: AdapterFacts, layers: list[AdaptedLayer]) -> dict[str, object]:
    rank = len(tensors[f"{layers[0].name}.{DOWN}"])
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": adapter.scaling * rank,
        "target_modules": sorted({layer.name.rpartition(".")[2] for layer in layers}),
        "bias": "none",
    }
