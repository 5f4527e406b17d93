"""LoRA, by peft: a frozen body in the type that it computes in, and adapters in float32, which alone train.

    y = W x + (lora_alpha / lora_rank) B (A x),   W frozen, A and B float32, computed with in float32

B begins at zero, so an untrained adapter changes nothing. A copy of such a network has adapters of its own on the same
body. docs/lora.md
"""

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn import Module, Parameter
from transformers import PreTrainedConfig, PreTrainedModel

from learner.models.loading.named_tensors import named_tensors
from learner.models.loading.reading import WeightsError
from learner.models.weights.master_weights import MasterWeights, Result
from learner.models.weights.sharding import Passes, frozen_in_shards
from learner.parallel.group import ALONE, Group
from tppo.models.adapters import (
    ADAPTER_FILE,
    PEFT_PREFIX,
    AdaptedLayer,
    Lora,
    adapted_layers,
    adapter_shapes,
    merged_weight,
)
from tppo.weights.manifest import AdapterFacts

OF_PEFT_LAYERS = (".default.", ".")
"""What peft puts into the name of an adapter's parameter, and what it has in a file."""
LORA = ".lora_"
"""In the name of each parameter of an adapter."""
BASE_LAYER = ".base_layer."
"""What peft puts into the name of a parameter of a layer that has an adapter."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Body:
    """What the adapters of a network stand on."""

    path: str
    digest: str


@dataclass(frozen=True, slots=True)
class Adapters:
    """Which a network is to have, and with which numbers it begins."""

    lora: Lora
    body: Body
    seed: int = 0  # of the numbers that A begins with
    tensors: Mapping[str, Tensor] | None = None  # those of a checkpoint, by its names


class AdapterWeights(MasterWeights):
    """A network of which the adapters train, and the value model's head: they are their own masters, in float32."""

    stem = ADAPTER_FILE.removesuffix(".safetensors")

    def __init__(
        self, network: Module, masters: Mapping[str, Parameter], adapters: Adapters, layers: Sequence[AdaptedLayer]
    ) -> None:
        """`masters`: the adapters' parameters, and those of heads that train whole."""
        super().__init__(network, masters)
        self.group = ALONE  # of the processes that train it
        self._passes: Passes | None = None  # where the body lies in shards
        self.adapters, self.layers = adapters, layers
        self.adapter = AdapterFacts(adapters.body.digest, adapters.lora.scaling)
        self.heads = sorted({name.rpartition(".")[0] for name in masters if LORA not in name})

    @classmethod
    def into(
        cls,
        network: Any,
        adapters: Adapters,
        *,
        compute_dtype: torch.dtype,
        in_float32: Set[str],
        head: str = "",
        group: Group = ALONE,
    ) -> "AdapterWeights":
        """Freeze a network of float32 weights, or of a shared body, but for `head`; cast it, and put the adapters in.

        In a group the body lies in shards, and the adapters on every rank.

        Raises `AdapterError` for layers that it does not have, and `WeightsError` for tensors that are not its.
        """
        heads = [head] if head else []
        layers = adapted_layers(network, adapters.lora, leave_out=heads)
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(name.rpartition(".")[0] in heads)
            if parameter.is_floating_point() and name not in in_float32 and parameter.dtype != compute_dtype:
                parameter.data = parameter.data.to(compute_dtype)
        with _whole_shapes(network):
            _inject(network, adapters, layers, heads)
        trained = {name: one for name, one in network.named_parameters() if one.requires_grad}
        assert all(one.dtype == torch.float32 for one in trained.values()), "the head's too"
        weights = cls(network, trained, adapters, layers)
        if adapters.tensors is not None:
            weights.load(adapters.tensors)
        if group.size > 1:
            weights.group, weights._passes = group, frozen_in_shards(network, group)
        return weights

    @torch.no_grad()
    def complete_gradients(self) -> None:
        gradients = [one.grad for one in self.parameters() if one.grad is not None]
        whole = self.group.summed(torch.cat([one.flatten() for one in gradients]))
        for gradient, total in zip(gradients, torch.split(whole, [one.numel() for one in gradients]), strict=True):
            gradient.copy_(total.view_as(gradient))

    def tensors(self) -> dict[str, Tensor]:
        """Adapters, and the value model's head, under the names of peft's files."""
        return {f"{PEFT_PREFIX}{name.replace(*OF_PEFT_LAYERS)}": master for name, master in self.masters.items()}

    def computed(self) -> dict[str, tuple[Tensor, torch.dtype]]:
        """The adapters alone."""
        return {
            name.removeprefix(PEFT_PREFIX): (master.detach(), master.dtype) for name, master in self.tensors().items()
        }

    @torch.no_grad()
    def merged(self) -> dict[str, Tensor]:
        """The body's weights with what the adapters add to them, by the names of a network without adapters."""
        adapters = {name: tensor for name, (tensor, _) in self.computed().items()}
        adapted = {f"{layer.name}.weight": layer for layer in self.layers}
        plain = {
            name.replace(BASE_LAYER, "."): tensor
            for name, tensor in named_tensors(self.network).items()
            if LORA not in name
        }
        added = {
            name: merged_weight(plain[name], adapters, layer, scaling=self.adapters.lora.scaling)
            for name, layer in adapted.items()
        }
        return plain | added

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Raises `WeightsError` unless they are these, by the names of peft's files."""
        own = self.tensors()
        if others := sorted(own.keys() ^ tensors.keys()):
            raise WeightsError(f"adapters of other layers: {', '.join(others[:3])}; expected those of the run")
        for name, tensor in own.items():
            if tensor.shape != tensors[name].shape:
                raise WeightsError(f"{name} is {list(tensors[name].shape)}; expected {list(tensor.shape)}")
            tensor.copy_(tensors[name])

    def run(self, compute: Callable[[], Result]) -> Result:
        return compute() if self._passes is None else self._passes(compute)

    def holding(self, tensors: Mapping[str, Tensor]) -> "OtherAdapters":
        """On the same body."""
        others = OtherAdapters(self)
        others.load({f"{PEFT_PREFIX}{name}": tensor for name, tensor in tensors.items()})
        return others

    def frozen_copy(self) -> "OtherAdapters":
        """On the same body."""
        return OtherAdapters(self)


class OtherAdapters(AdapterWeights):
    """Copies of adapters, which the owner's network has in place of its own while something is computed."""

    def __init__(self, owner: AdapterWeights) -> None:
        """They take no gradient."""
        copies = {name: Parameter(one.detach().clone(), requires_grad=False) for name, one in owner.masters.items()}
        vars(self).update(vars(owner) | {"masters": copies})
        self._owner = owner

    def run(self, compute: Callable[[], Result]) -> Result:
        pairs = [(self._owner.masters[name], one) for name, one in self.masters.items()]
        own = [parameter.data for parameter, _ in pairs]
        try:
            for parameter, one in pairs:
                parameter.data = one.data
            return self._owner.run(compute)
        finally:
            for (parameter, _), data in zip(pairs, own, strict=True):
                parameter.data = data


def on_body_of(policy: Any, network_class: type[PreTrainedModel], config: PreTrainedConfig) -> Any:
    """A value network without adapters whose body is that of the policy's network: the same tensors, no copies.

    In a group they are the policy's shards. Its head is of zeros.
    """
    with torch.device("meta"):
        network: Any = network_class._from_config(config, dtype=policy.dtype)  # type: ignore[no-untyped-call]
    theirs = {
        name.replace(BASE_LAYER, "."): tensor
        for name, tensor in (
            *policy.named_parameters(remove_duplicate=False),
            *policy.named_buffers(remove_duplicate=False),
        )
    }
    head = torch.nn.Linear(network.score.in_features, 1, device=policy.device)
    for parameter in head.parameters():
        torch.nn.init.zeros_(parameter)
    network.score = head
    for name, tensor in (*network.named_parameters(), *network.named_buffers()):
        if tensor.is_meta:
            owner, _, own = name.rpartition(".")
            setattr(network.get_submodule(owner), own, theirs[name])
    network.set_attn_implementation(policy.config._attn_implementation)
    return network.eval()


def peft_config(adapters: Adapters, layers: Sequence[AdaptedLayer], heads: Sequence[str]) -> Any:
    """peft's own configuration of such adapters."""
    from peft import LoraConfig, TaskType  # where LoRA is configured it is installed

    return LoraConfig(
        r=adapters.lora.rank,
        lora_alpha=adapters.lora.alpha,  # type: ignore[arg-type]  # peft divides by the rank, whatever number it is
        lora_dropout=0.0,
        bias="none",
        target_modules=sorted(layer.name for layer in layers),
        modules_to_save=list(heads) or None,
        fan_in_fan_out=any(layer.is_transposed for layer in layers),
        task_type=TaskType.TOKEN_CLS if heads else TaskType.CAUSAL_LM,
        base_model_name_or_path=adapters.body.path,
        inference_mode=True,
    )


@contextmanager
def _whole_shapes(network: Module) -> Iterator[None]:
    """Within, shards are parameters of whole shapes without memory: peft makes adapters as wide as a rank's rows."""
    shards = [
        (module, name, one)
        for module in network.modules()
        for name, one in module.named_parameters(recurse=False)
        if isinstance(one, DTensor)
    ]
    for module, name, shard in shards:
        shape_alone = torch.empty(1, dtype=shard.dtype, device=shard.device).expand(shard.shape)
        module._parameters[name] = Parameter(shape_alone, requires_grad=False)
    yield
    for module, name, shard in shards:
        module._parameters[name] = shard


def _inject(network: Any, adapters: Adapters, layers: Sequence[AdaptedLayer], heads: Sequence[str]) -> None:
    from peft import inject_adapter_in_model

    config = peft_config(adapters, layers, ())
    config.inference_mode = False
    inject_adapter_in_model(config, network)
    generator = torch.Generator().manual_seed(adapters.seed)
    for name, parameter in network.named_parameters():
        is_of_adapter = LORA in name
        parameter.requires_grad_(is_of_adapter or name.rpartition(".")[0] in heads)
        if is_of_adapter:  # again in float32: peft has rounded them to the type of the body
            numbers = torch.zeros(parameter.shape)
            if ".lora_A." in name:
                torch.nn.init.kaiming_uniform_(numbers, a=math.sqrt(5), generator=generator)
            parameter.data = numbers.to(parameter.device)
    size = sum(shape.numel() for shape in adapter_shapes(layers, adapters.lora.rank).values())
    logger.info("%d layers have adapters of rank %d, %d weights", len(layers), adapters.lora.rank, size)
