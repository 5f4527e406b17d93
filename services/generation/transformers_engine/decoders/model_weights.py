"""The tensors that make a model, and whether a weight update fits them."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from tppo.models.adapters import DOWN, UP
from tppo.models.library_errors import first_line
from tppo.models.precision import names_in_float32

NUM_NAMES_SHOWN = 3


class Adapter(NamedTuple):
    """What LoRA adds to the outputs of a linear layer, in float32: up (down x), the scaling within `up`."""

    down: torch.Tensor  # [rank, inputs]
    up: torch.Tensor  # [outputs, rank]

    def added_to(self, outputs: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
        """As peft does, the sum rounded to the type of the outputs."""
        added = functional.linear(functional.linear(inputs.float(), self.down), self.up)
        return (outputs + added).to(outputs.dtype)


def apart(
    tensors: Mapping[str, torch.Tensor], device: torch.device
) -> tuple[Mapping[str, torch.Tensor], dict[str, Adapter]]:
    """The weights of a model where they lie, and the adapters among them, on the device, by the name of their layer."""
    ends = tuple(f".{end}" for end in (DOWN, UP))
    names = [name.removesuffix(ends[0]) for name in tensors if name.endswith(ends[0])]
    if not names:
        return tensors, {}
    plain = {name: tensor for name, tensor in tensors.items() if not name.endswith(ends)}
    return plain, {name: Adapter(*(tensors[f"{name}{end}"].to(device) for end in ends)) for name in names}


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


def model_with(
    config: PreTrainedConfig,
    tensors: Mapping[str, torch.Tensor],
    dtype: torch.dtype,
    device: torch.device,
    adapters: Mapping[str, Adapter],
) -> PreTrainedModel:
    """A model that has these tensors, not copies of them where they are of the dtype; its buffers are made again.

    Its layers add what `adapters` has for them at each time.
    """
    with torch.device("meta"):
        network_class: Any = type(new_model(config, dtype))
    model: PreTrainedModel = network_class.from_pretrained(None, config=config, state_dict=dict(tensors), dtype=dtype)
    for name in adapters:
        model.get_submodule(name).register_forward_hook(partial(_add, adapters, name))
    placed: Any = model
    placed.to(device).eval()
    return model


def _add(adapters: Mapping[str, Adapter], name: str, _layer: Any, inputs: Any, outputs: torch.Tensor) -> torch.Tensor:
    return adapters[name].added_to(outputs, inputs[0]) if name in adapters else outputs


def weights_in(folder: Path, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Those of the model in the folder, in the types that a learner sends. ValueError: some are missing."""
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype="auto", local_files_only=True, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise ValueError(first_line(error)) from None
    model, found = loaded
    if missing := sorted(found["missing_keys"]):
        raise ValueError(f"{len(missing)} weights are missing, such as {missing[0]}; expected all of them")
    in_float32 = names_in_float32(model, dtype)
    return {
        name: tensor.detach().to(torch.float32 if name in in_float32 else dtype)
        for name, tensor in named_weights(model).items()
    }


def check_fit(tensors: Mapping[str, torch.Tensor], shapes: Mapping[str, torch.Size]) -> None:
    """Raise a ValueError that names what is missing, surplus, of another shape, or not a finite number."""
    misfits: dict[str, set[str]] = {
        "missing": shapes.keys() - tensors.keys(),
        "unknown": tensors.keys() - shapes.keys(),
        "of another shape": set(),
        "not finite": set(),
    }
    for name, tensor in tensors.items():  # once: it may be made as it is read
        if tensor.shape != shapes.get(name, tensor.shape):
            misfits["of another shape"].add(name)
        if not _is_finite(tensor):
            misfits["not finite"].add(name)
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
