"""The weights of a network by name: as they lie in memory, by the names of a model's folder, and as a copy."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn import Module
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

from learner.parallel.gathering import is_divided, own_rows
from learner.parallel.shard_files import StoredTensor, stored
from tppo.models.adapters import PEFT_PREFIX
from tppo.process.event_loop import warn_on_event_loop
from tppo.weights import TensorFacts


def named_tensors(network: Module) -> dict[str, Tensor]:
    """The network's own tensors, tied ones once, under their first name."""
    seen: set[int] = set()
    tensors: dict[str, Tensor] = {}
    for name, tensor in network.state_dict(keep_vars=True).items():
        place = id(tensor) if isinstance(tensor, DTensor) else tensor.data_ptr()  # of a shard that says nothing
        if tensor.numel() == 0 or place not in seen:
            seen.add(place)
            tensors[name] = tensor.detach()
    return tensors


def stored_tensors(network: PreTrainedModel, tensors: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """The network's own, or these, under the names and in the pieces that folders of such models have.

    transformers joins the experts of a layer when it loads a model; vLLM and others expect them as they were. Names of
    adapters are those of a file of peft's already.
    """
    own = named_tensors(network) if tensors is None else tensors
    if _are_of_adapters(own):
        return dict(own)
    return _converted(network, _kept(network, own))


def stored_by_ranks(network: PreTrainedModel, tensors: Mapping[str, Tensor]) -> list[StoredTensor]:
    """`stored_tensors` of tensors that several ranks may hold, whose pieces are made when one is whole."""
    if _are_of_adapters(tensors):
        return stored({name: tensor.detach() for name, tensor in tensors.items()})
    kept = _kept(network, tensors)
    if not any(map(is_divided, kept.values())):
        return stored(_converted(network, {name: own_rows(tensor) for name, tensor in kept.items()}))
    return [_in_pieces(network, name, tensor) for name, tensor in kept.items()]


def _in_pieces(network: PreTrainedModel, name: str, tensor: Tensor) -> StoredTensor:
    shape_alone = torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
    pieces = _converted(network, {name: shape_alone})
    facts = tuple(TensorFacts.of(piece, one) for piece, one in pieces.items())
    return StoredTensor(tensor, facts, lambda whole: _converted(network, {name: whole}))


def _are_of_adapters(tensors: Mapping[str, Tensor]) -> bool:
    return all(name.startswith(PEFT_PREFIX) for name in tensors)


def _kept(network: PreTrainedModel, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    ignored = network._keys_to_ignore_on_save or ()
    return {name: tensor.detach() for name, tensor in tensors.items() if name not in ignored}


def _converted(network: PreTrainedModel, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return dict(revert_weight_conversion(network, tensors))


def copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A copy on the CPU, each tensor contiguous."""
    warn_on_event_loop("copying of weights")
    return {name: _copy(tensor) for name, tensor in tensors.items()}


def _copy(tensor: Tensor) -> Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu").copy_(tensor.detach())
