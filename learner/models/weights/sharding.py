"""A network whose weights lie in shards, one on each rank of a group: FSDP2 of torch.

The shards are the float32 masters, which the optimizer moves. Before a block of the network computes, its weights are
gathered in the type that it computes in, and freed behind it; its gradients are added up over the ranks in float32, and
each rank keeps those of its shards. A loss is divided by the tokens of the whole mini-batch, so gradients are summed,
not averaged.

With `learner.fsdp_size` there are several replicas of the shards: weights are gathered within a replica, and gradients
added up within it and then over the replicas.

FSDP2 gathers a module's weights in its `forward` alone, so everything that reads weights runs inside that of `Passes`.
"""

import copy
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, Self, TypeVar

import torch
from torch import Tensor
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn import Module, Parameter
from torch.utils._pytree import tree_map_only

from learner.models.loading.named_tensors import named_tensors
from learner.models.weights.activation_checkpointing import blocks_of
from learner.models.weights.master_weights import MAX_SAMPLED, MasterWeights
from learner.parallel.gathering import first_row, own_rows
from learner.parallel.group import Group

Result = TypeVar("Result")


class Passes(Module):
    """Whatever is computed with a network, as one module's forward pass."""

    def __init__(self, network: Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, compute: Callable[[], Result]) -> Result:
        return compute()


class ShardedWeights(MasterWeights):
    """See `MasterWeights`; the parameters of the network are the shards (`DTensor`), and its masters."""

    def __init__(
        self,
        network: Module,
        compute_dtype: torch.dtype = torch.float32,
        *,
        in_float32: Collection[str] = (),
        group: Group,
        tensor_of: Callable[[str], Tensor] | None = None,
    ) -> None:
        """Of a network of float32 weights, which is emptied; or one without any (`emptied`), whose are `tensor_of`."""
        self.group, self._compute_dtype = group, compute_dtype
        self._in_float32 = frozenset(in_float32) & dict(network.named_parameters()).keys()
        if tensor_of is None:
            given = dict(network.named_parameters())
            network, tensor_of = emptied(network), given.__getitem__
        self._blueprint = emptied(network)
        self._passes = _sharded(network, compute_dtype, self._in_float32, group, tensor_of)
        super().__init__(network, dict(network.named_parameters()))

    def run(self, compute: Callable[[], Result]) -> Result:
        result: Result = self._passes(compute)
        return result

    def computing_in(self, compute_dtype: torch.dtype, *, in_float32: Collection[str] = ()) -> Self:
        if compute_dtype == torch.float32:
            return self
        return self._another(self.masters, compute_dtype, in_float32)

    @property
    def compute_dtype(self) -> torch.dtype:
        return self._compute_dtype

    def computed(self) -> dict[str, tuple[Tensor, torch.dtype]]:
        """See `MasterWeights`; of the parameters it gives the masters, which are cast when they are gathered."""
        return {
            name: (tensor, self._dtype_of(name) if name in self.masters else tensor.dtype)
            for name, tensor in named_tensors(self.network).items()
        }

    def frozen_copy(self) -> Self:
        frozen = self._another(self.masters, self._compute_dtype, self._in_float32)
        frozen.network.requires_grad_(False)
        return frozen

    def holding(self, tensors: Mapping[str, Tensor]) -> Self:
        unknown = set(tensors) - set(self.network.state_dict())
        assert not unknown, f"weights of another model: {unknown}"
        return self._another(self.masters | dict(tensors), self._compute_dtype, self._in_float32)

    def kept(self) -> Callable[[], "ShardedWeights"]:
        shards = {name: own_rows(one).detach().to("cpu", copy=True) for name, one in self.masters.items()}

        def again() -> ShardedWeights:
            other = self._another({}, self._compute_dtype, self._in_float32)
            _fill(other.masters, shards)
            return other

        return again

    @torch.no_grad()
    def sample(self) -> Tensor:
        """This rank's part of the sample, which is the same weights for any number of ranks."""
        stride = (sum(master.numel() for master in self.masters.values()) // MAX_SAMPLED) | 1
        parts = []
        for name, master in self.masters.items():
            shard = own_rows(master).detach()
            parts.append(shard.flatten()[-_first_element(master) % stride :: stride].to(self._dtype_of(name)))
        return torch.cat([part.float() for part in parts])

    def changed_fraction(self, since: Tensor) -> float:
        changed = torch.tensor([int((self.sample() != since).sum()), since.numel()])
        of_ranks = torch.stack(self.group.gathered(changed, [2] * self.group.size))
        num_changed, num_sampled = of_ranks.sum(dim=0).tolist()
        return float(num_changed / num_sampled)

    def _dtype_of(self, name: str) -> torch.dtype:
        return torch.float32 if name in self._in_float32 else self._compute_dtype

    def _another(self, tensors: Mapping[str, Tensor], compute_dtype: torch.dtype, in_float32: Collection[str]) -> Self:
        """A network of the same shape and constants. Shards of its kind are taken over as they are, and copied."""
        whole = {name: one for name, one in tensors.items() if not isinstance(one, DTensor)}
        shapes = {name: one.shape for name, one in self.masters.items()}
        other = type(self)(
            copy.deepcopy(self._blueprint),
            compute_dtype,
            in_float32=in_float32,
            group=self.group,
            tensor_of=lambda name: whole.get(name, torch.empty(shapes[name], dtype=torch.float32)),
        )
        _fill(other.masters, {name: own_rows(one) for name, one in tensors.items() if name not in whole})
        for mine, theirs in zip(self.network.buffers(), other.network.buffers(), strict=True):
            theirs.data = mine.data.clone()
        return other


def emptied(network: Module) -> Any:
    """A copy without weights, on the meta device, with the same buffers and configuration."""
    memo: dict[int, Any] = {
        id(one): Parameter(one.detach().to("meta"), requires_grad=one.requires_grad) for one in network.parameters()
    }
    # How it attends is a setting that may change later, for all of its copies.
    memo |= {id(part.config): part.config for part in network.modules() if hasattr(part, "config")}
    return copy.deepcopy(network, memo)


def _sharded(
    network: Module,
    compute_dtype: torch.dtype,
    in_float32: Collection[str],
    group: Group,
    tensor_of: Callable[[str], Tensor],
) -> Passes:
    """Shard the network, block by block: no more than one block of it is whole at a time."""
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    root = Passes(network)
    for module, dtype in _to_shard(root, compute_dtype, in_float32):
        _materialize(module, lambda parameter: tensor_of(names[id(parameter)]).to(group.device, torch.float32))
        module.register_forward_hook(_without_views)
        # Only the root's would stay gathered by default, and then be those of before an update in the next pass.
        sharded = fully_shard(
            module,
            mesh=group.mesh,
            reshard_after_forward=True,
            mp_policy=MixedPrecisionPolicy(
                param_dtype=None if dtype == torch.float32 else dtype,
                reduce_dtype=torch.float32,
                cast_forward_inputs=False,
            ),
        )
        sharded.set_gradient_divide_factor(1.0)
        sharded.set_force_sum_reduction_for_comms(True)
    return root


def frozen_in_shards(network: Module, group: Group) -> Passes:
    """Shard what is frozen, block by block, in the types that it has; what trains stays whole on every rank.

    A group of FSDP2 gathers in one type what trains in it, and adapters are float32 on a body of another type. What are
    shards already, those of another network, stays in its memory: this one gathers from there, too.
    """
    trained = {one for one in network.parameters() if one.requires_grad}
    for one in trained:
        one.data = one.data.to(group.device)
    shared = {name: one.detach() for name, one in network.named_parameters() if isinstance(one, DTensor)}
    _empty(network, shared)
    root = Passes(network)
    for module in (*blocks_of(network), root):
        module.register_forward_hook(_without_views)
        fully_shard(module, mesh=group.mesh, reshard_after_forward=True, ignored_params=trained)
    if shared:
        network.load_state_dict(shared, strict=False, assign=True)
    return root


def _empty(network: Module, names: Iterable[str]) -> None:
    """Put parameters without weights there: FSDP2 takes a `DTensor` for one that is divided in yet another way."""
    for name in names:
        owner, _, own = name.rpartition(".")
        module = network.get_submodule(owner)
        shape, dtype = module._parameters[own].shape, module._parameters[own].dtype  # type: ignore[union-attr]
        module._parameters[own] = Parameter(torch.empty(shape, dtype=dtype, device="meta"), requires_grad=False)


def _without_views(_module: Module, _inputs: Any, outputs: Any) -> Any:
    """The hooks that gather weights for the backward pass, which come after this one, cannot stand on views."""
    return tree_map_only(Tensor, lambda one: one.clone() if one._is_view() else one, outputs)


def _to_shard(root: Passes, compute_dtype: torch.dtype, in_float32: Collection[str]) -> Iterator[tuple[Module, Any]]:
    """From the inside outwards: what stays in float32, the blocks, and all else."""
    for owner in sorted({name.rpartition(".")[0] for name in in_float32}) if compute_dtype != torch.float32 else ():
        yield root.network.get_submodule(owner), torch.float32
    for block in blocks_of(root.network):
        yield block, compute_dtype
    yield root, compute_dtype


def _materialize(module: Module, tensor_of: Callable[[Parameter], Tensor]) -> None:
    """Give the module's parameters that are not sharded yet their weights; tied ones stay one."""
    made: dict[int, Parameter] = {}
    for part in module.modules():
        for name, empty in part._parameters.items():
            if empty is not None and empty.is_meta:
                if id(empty) not in made:
                    made[id(empty)] = Parameter(tensor_of(empty).contiguous(), requires_grad=empty.requires_grad)
                part._parameters[name] = made[id(empty)]


@torch.no_grad()
def _fill(masters: Mapping[str, Parameter], shards: Mapping[str, Tensor]) -> None:
    for name, shard in shards.items():
        own_rows(masters[name]).copy_(shard)


def _first_element(master: Tensor) -> int:
    """The place of this rank's first number in the whole tensor, row after row."""
    assert isinstance(master, DTensor), "masters are shards"
    return first_row(master) * (master.numel() // max(1, master.shape[0]))
