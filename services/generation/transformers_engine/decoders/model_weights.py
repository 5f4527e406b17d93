"""The tensors that make a model, and whether a weight update fits them."""

from collections.abc import Mapping
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from tppo.models.precision import names_in_float32

NUM_NAMES_SHOWN = 3


def named_weights(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Parameters and persistent buffers; tied ones appear once, under their first name."""
    persistent = model.state_dict(keep_vars=True)
    own = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {name: tensor for name, tensor in own.items() if name in persistent}


def weight_shapes(config: PreTrainedConfig) -> dict[str, torch.Size]:
    """Name and shape of each of the model's weights."""
    with torch.device("meta"):
        model = new_model(config, torch.float32)
    return {name: tensor.shape for name, tensor in named_weights(model).items()}


def new_model(config: PreTrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
    """A model with random weights; code that comes with a model's folder is never run."""
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=dtype)  # type: ignore[no-untyped-call]
    state = model.state_dict(keep_vars=True)
    for name in names_in_float32(model, dtype):
        state[name].data = state[name].data.float()
    return model


def model_with(config: PreTrainedConfig, tensors: Mapping[str, torch.Tensor], dtype: torch.dtype) -> PreTrainedModel:
    """A model that has these tensors, not copies of them where they are of the dtype; its buffers are made again."""
    with torch.device("meta"):
        network_class: Any = type(new_model(config, dtype))
    model: PreTrainedModel = network_class.from_pretrained(None, config=config, state_dict=dict(tensors), dtype=dtype)
    return model


def check_fit(tensors: Mapping[str, torch.Tensor], shapes: Mapping[str, torch.Size]) -> None:
    """Raise a ValueError that names what is missing, surplus, of another shape, or not a finite number."""
    misfits = {
        "missing": shapes.keys() - tensors.keys(),
        "unknown": tensors.keys() - shapes.keys(),
        "of another shape": {name for name in shapes.keys() & tensors.keys() if tensors[name].shape != shapes[name]},
        "not finite": {name for name, tensor in tensors.items() if not _is_finite(tensor)},
    }
    found = [f"{len(names)} {kind} ({_first(names)})" for kind, names in misfits.items() if names]
    if found:
        raise ValueError(f"weights do not fit the model: {', '.join(found)}")


def _is_finite(tensor: torch.Tensor) -> bool:
    """By the smallest and the largest, which any NaN replaces: `isfinite` of all takes 30 times as long."""
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    wide = tensor.float() if tensor.element_size() == 1 else tensor  # torch compares no numbers of eight bits
    return all(bool(torch.isfinite(one)) for one in torch.aminmax(wide))


def _first(names: set[str]) -> str:
    shown = sorted(names)[:NUM_NAMES_SHOWN]
    return ", ".join(shown) + (", ..." if len(names) > NUM_NAMES_SHOWN else "")
