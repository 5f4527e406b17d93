"""LoRA: which linear layers of a model have an adapter, how large it is, and what it makes of the layer's weight.

    y = W x + scaling B (A x),   A [rank, inputs], B [outputs, rank], scaling = lora_alpha / lora_rank

W is the frozen body's, A and B train. The tensors are named LAYER.lora_A.weight and LAYER.lora_B.weight, as peft names
them in its files after a prefix.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from tppo.digests import ALGORITHM, algorithm_of, file_digest, named, new_hasher

if TYPE_CHECKING:  # what computes runs where no configuration library is installed
    from tppo.config.sections.training import OptimizerSection

ALL_LINEAR: Literal["all-linear"] = "all-linear"
DOWN, UP = "lora_A.weight", "lora_B.weight"
NUM_NAMES_SHOWN = 8
ADAPTER_FILE, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"
"""peft's files."""
BODY_FILE = "body.json"
"""Beside them in a checkpoint: path and digest of the body."""
PEFT_PREFIX = "base_model.model."
"""Before each name in a file of peft's."""

TargetModules = Literal["all-linear"] | Sequence[str]


class AdapterError(ValueError):
    """Adapters that a model cannot have, or that are not those of its body."""


@dataclass(frozen=True, slots=True)
class Lora:
    """Which adapters a model trains; peft's and verl's names."""

    rank: int
    alpha: float
    target_modules: TargetModules = ALL_LINEAR
    exclude_modules: Sequence[str] = ()

    @classmethod
    def of(cls, section: "OptimizerSection") -> "Lora | None":
        """What the configuration says; None where all weights train."""
        if not section.lora_rank:
            return None
        return cls(section.lora_rank, section.lora_alpha, section.target_modules, section.exclude_modules)

    @property
    def scaling(self) -> float:
        """Of what the adapters add."""
        return self.alpha / self.rank


@dataclass(frozen=True, slots=True)
class AdaptedLayer:
    """A linear layer that has an adapter."""

    name: str
    num_inputs: int
    num_outputs: int
    is_transposed: bool = False  # its weight is [inputs, outputs], as GPT-2's

    def shapes(self, rank: int) -> dict[str, torch.Size]:
        """Of its tensors, by name."""
        return {
            f"{self.name}.{DOWN}": torch.Size((rank, self.num_inputs)),
            f"{self.name}.{UP}": torch.Size((self.num_outputs, rank)),
        }


def adapted_layers(network: Any, lora: Lora, *, leave_out: Sequence[str] = ()) -> list[AdaptedLayer]:
    """Of a network without adapters, in its order, but for its output embedding and `leave_out`.

    Raises `AdapterError` where a name stands for no linear layer.
    """
    head = network.get_output_embeddings() if hasattr(network, "get_output_embeddings") else None
    linear = {
        name: layer
        for name, module in network.named_modules()
        if module is not head and name not in leave_out and (layer := _linear_layer(name, module)) is not None
    }
    if lora.target_modules == ALL_LINEAR:
        targeted = set(linear)
    else:
        targeted = _named(linear, "target_modules", lora.target_modules)
    excluded = _named(linear, "exclude_modules", lora.exclude_modules)
    found = [layer for name, layer in linear.items() if name in targeted - excluded]
    if not found:
        raise AdapterError("exclude_modules names every layer of target_modules; expected fewer")
    return found


def adapter_shapes(layers: Sequence[AdaptedLayer], rank: int) -> dict[str, torch.Size]:
    """Name and shape of each tensor of the adapters."""
    return {name: shape for layer in layers for name, shape in layer.shapes(rank).items()}


def num_adapted(config: Any, lora: Lora | None) -> int | None:
    """Parameters of the adapters of a model with this configuration of transformers; None where all weights train.

    Raises `AdapterError`.
    """
    if lora is None:
        return None
    from transformers import AutoModelForCausalLM  # slow to import

    with torch.device("meta"):
        network = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    layers = adapted_layers(network, lora)
    return sum(shape.numel() for shape in adapter_shapes(layers, lora.rank).values())


def merged_weight(weight: Tensor, adapters: Mapping[str, Tensor], layer: AdaptedLayer, *, scaling: float) -> Tensor:
    """W + scaling B A, added in float32 and rounded to the weight's type."""
    down, up = (adapters[f"{layer.name}.{part}"].to(weight.device, torch.float32) for part in (DOWN, UP))
    added = (up @ down).mul_(scaling)
    return (weight.float() + (added.T if layer.is_transposed else added)).to(weight.dtype)


def body_digest(folder: Path, algorithm: str = ALGORITHM) -> str:
    """Of the bytes of the folder's safetensors files: what identifies the body that adapters were trained on."""
    hasher = new_hasher(algorithm)
    for file in sorted(folder.glob("*.safetensors")):
        hasher.update(f"{file.name} {file_digest(file, algorithm)}\n".encode())
    return named(algorithm, hasher)


def has_digest(folder: Path, digest: str) -> bool:
    """Whether the body in the folder is that of the digest. Raises `UnknownAlgorithmError`."""
    return body_digest(folder, algorithm_of(digest)) == digest


def _linear_layer(name: str, module: Any) -> AdaptedLayer | None:
    if isinstance(module, torch.nn.Linear):
        return AdaptedLayer(name, module.in_features, module.out_features)
    if type(module).__name__ == "Conv1D":  # of transformers, which is slow to import
        num_inputs, num_outputs = module.weight.shape
        return AdaptedLayer(name, num_inputs, num_outputs, is_transposed=True)
    return None


def _named(linear: Mapping[str, AdaptedLayer], key: str, targets: Sequence[str]) -> set[str]:
    """Layers whose name is, or ends with, one of these; each has to be that of a layer."""
    found: set[str] = set()
    for target in targets:
        ones = {name for name in linear if name == target or name.endswith(f".{target}")}
        if not ones:
            known = sorted({name.rpartition(".")[2] for name in linear})[:NUM_NAMES_SHOWN]
            raise AdapterError(f"{key} names {target!r}, which is no linear layer; expected such as {', '.join(known)}")
        found |= ones
    return found
