"""The weights of a network by name: as they lie in memory, by the names of a model's folder, and as a copy."""

from collections.abc import Mapping

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

from tppo.models.adapters import PEFT_PREFIX
from tppo.process.event_loop import warn_on_event_loop


def named_tensors(network: PreTrainedModel) -> dict[str, Tensor]:
    """The network's own tensors, tied ones once, under their first name."""
    seen: set[int] = set()
    tensors: dict[str, Tensor] = {}
    for name, tensor in network.state_dict().items():
        if tensor.numel() == 0 or tensor.data_ptr() not in seen:
            seen.add(tensor.data_ptr())
            tensors[name] = tensor.detach()
    return tensors


def stored_tensors(network: PreTrainedModel, tensors: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """The network's own, or these, under the names and in the pieces that folders of such models have.

    transformers joins the experts of a layer when it loads a model; vLLM and others expect them as they were. Names of
    adapters are those of a file of peft's already.
    """
    if tensors is not None and all(name.startswith(PEFT_PREFIX) for name in tensors):
        return dict(tensors)
    ignored = network._keys_to_ignore_on_save or ()
    own = named_tensors(network) if tensors is None else tensors
    kept = {name: tensor.detach() for name, tensor in own.items() if name not in ignored}
    return dict(revert_weight_conversion(network, kept))


def copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A copy on the CPU, each tensor contiguous."""
    warn_on_event_loop("copying of weights")
    return {name: _copy(tensor) for name, tensor in tensors.items()}


def _copy(tensor: Tensor) -> Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu").copy_(tensor.detach())
