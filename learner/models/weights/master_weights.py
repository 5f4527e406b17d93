"""Master weights in float32, which the optimizer moves, and the network that computes with their cast.

A number of bfloat16 has eight significant bits, so an update of less than about a thousandth of a weight is rounded
away: with the usual learning rates nearly all of them. Masters gather such updates until the cast changes. What
generators are sent is the cast, so both ends compute with the same numbers. A network that computes in float32 is its
own master. Parameters that are frozen have none.
"""

import copy
from collections.abc import Callable, Collection, Mapping
from typing import Any, Self, TypeVar

import torch
from torch import Tensor
from torch.nn import Module, Parameter

from learner.models.loading.named_tensors import named_tensors
from tppo.weights.manifest import AdapterFacts

Result = TypeVar("Result")
MAX_SAMPLED = 2**20
"""Weights that are compared to find out how many have changed: 1 in 10,000 is then a hundred of them."""


class MasterWeights:
    """A network and its masters, by the names of its parameters.

    Gradients reach the masters as they are computed, one parameter after the other, and are added up there in float32.
    """

    adapter: AdapterFacts | None = None  # where generators are sent adapters alone
    stem = "model"  # of its files in a checkpoint

    def __init__(self, network: Module, masters: Mapping[str, Parameter]) -> None:
        self.network: Any = network
        self.masters = dict(masters)
        self._cast = [
            (parameter, master)
            for name, parameter in network.named_parameters()
            if (master := self.masters.get(name)) is not None and master is not parameter
        ]
        self._sampled = [parameter for name, parameter in network.named_parameters() if name in self.masters]
        for parameter, master in self._cast:
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(_gather_in(master))  # type: ignore[no-untyped-call]

    @classmethod
    def of(cls, network: Module, compute_dtype: torch.dtype, *, in_float32: Collection[str] = ()) -> Self:
        """`network` holds float32 weights, which become the masters; those of `in_float32` are not cast."""
        masters: dict[str, Parameter] = {}
        for name, parameter in network.named_parameters():
            if compute_dtype == parameter.dtype or name in in_float32 or not parameter.is_floating_point():
                masters[name] = parameter
            else:
                masters[name] = Parameter(parameter.data, requires_grad=parameter.requires_grad)
                parameter.data = parameter.data.to(compute_dtype)
        return cls(network, masters)

    def run(self, compute: Callable[[], Result]) -> Result:
        """What `compute` makes of the network; nothing else may call it, as its parameters may be elsewhere outside."""
        return compute()

    def complete_gradients(self) -> None:
        """Before an update: add to the gradients what other processes' rows make of them, unless they have it already.

        Of weights that are sharded they are added up as they are computed.
        """
        return

    def parameters(self) -> list[Parameter]:
        """What the optimizer moves."""
        return list(self.masters.values())

    @torch.no_grad()
    def cast(self) -> None:
        """Give the network what the masters have become."""
        for parameter, master in self._cast:
            parameter.copy_(master)

    def tensors(self) -> dict[str, Tensor]:
        """Masters and buffers by the names of the network's state, tied ones once: what a checkpoint keeps."""
        return {name: self.masters.get(name, tensor) for name, tensor in named_tensors(self.network).items()}

    def computed(self) -> dict[str, tuple[Tensor, torch.dtype]]:
        """What the network computes with, and in which type, by name, tied ones once: what generators are sent."""
        return {name: (tensor, tensor.dtype) for name, tensor in named_tensors(self.network).items()}

    def frozen_copy(self) -> Self:
        """Another network with the same weights, which takes no gradient."""
        network = copy.deepcopy(self.network).requires_grad_(False)
        own = dict(network.named_parameters())
        cast = {id(master) for _, master in self._cast}
        return type(self)(
            network,
            {
                name: Parameter(master.detach().clone(), requires_grad=False) if id(master) in cast else own[name]
                for name, master in self.masters.items()
            },
        )

    def computing_in(self, compute_dtype: torch.dtype, *, in_float32: Collection[str] = ()) -> Self:
        """These float32 weights as the masters of a network that computes in this type, but for those `in_float32`."""
        return type(self).of(self.network, compute_dtype, in_float32=in_float32)

    @property
    def compute_dtype(self) -> torch.dtype:
        """Of the network, but for the weights that stay in float32."""
        dtype: torch.dtype = self.network.dtype
        return dtype

    def holding(self, tensors: Mapping[str, Tensor]) -> Self:
        """Another network that computes with these tensors, by name, tied ones once."""
        network = copy.deepcopy(self.network)
        unknown = network.load_state_dict(dict(tensors), strict=False).unexpected_keys
        assert not unknown, f"weights of another model: {unknown}"
        return type(self)(network, dict(network.named_parameters()))

    def kept(self) -> "Callable[[], MasterWeights]":
        """Copies the weights to the host; what is returned makes another network that computes with them."""
        weights = {name: one.detach().to("cpu", copy=True) for name, (one, _) in self.computed().items()}
        return lambda: self.holding(weights)

    @torch.no_grad()
    def sample(self) -> Tensor:
        """A copy of weights as the network computes with them: all of a small one, evenly spread ones of a large one.

        The stride is odd, so that it takes more than a few columns of a matrix. Those that are frozen are left out.
        """
        stride = (sum(parameter.numel() for parameter in self._sampled) // MAX_SAMPLED) | 1
        flat = [parameter.reshape(-1) for parameter in self._sampled]
        return torch.cat(flat if stride == 1 else [one[::stride] for one in flat])

    def changed_fraction(self, since: Tensor) -> float:
        """The share of the weights that are not what they were in this `sample`."""
        return int((self.sample() != since).sum()) / len(since)


def cast_constants(network: Any, compute_dtype: torch.dtype) -> None:
    """Give the buffers that no file holds the types which transformers makes them in for this type of torch.

    Positions of XGLM, and decays of MiniMax: in float32 they would be computed with in float32, or not at all. Those
    that it keeps in float32, such as the frequencies of RoPE, stay so.
    """
    with torch.device("meta"):
        made = type(network)._from_config(copy.deepcopy(network.config), dtype=compute_dtype)
    types = {name: buffer.dtype for name, buffer in made.named_buffers()}
    stored = network.state_dict(keep_vars=True)
    for name, buffer in network.named_buffers():
        if name not in stored and buffer.is_floating_point():
            buffer.data = buffer.data.to(types.get(name, buffer.dtype))


def feed_in_float32(head: Module) -> None:
    """A head whose weights stay in float32 gets its inputs in float32, so that it computes in that type."""

    def as_float32(_head: Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(one.float() if isinstance(one, Tensor) else one for one in inputs)

    head.register_forward_pre_hook(as_float32)


def _gather_in(master: Parameter) -> Callable[[Tensor], None]:
    def gather(parameter: Tensor) -> None:
        gradient, parameter.grad = parameter.grad, None
        assert gradient is not None, "called when a gradient is complete"
        if master.grad is None:
            master.grad = gradient.to(master.dtype)
        else:
            master.grad.add_(gradient)

    return gather
