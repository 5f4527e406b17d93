"""Reads a network from a model's folder, and refuses a folder that holds another one or only a part of it.

transformers leaves what is missing at random numbers, and what is unexpected unread, with a line in the log; a run
would train on it.
"""

import json
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import PreTrainedConfig

INDEX = "model.safetensors.index.json"
PICKLED = ("*.bin", "*.ckpt", "*.pt", "*.pth")
NUM_NAMES_SHOWN = 3


class WeightsError(ValueError):
    """The weights in a folder are not those of the network, or cannot be computed with."""


def read_network(
    network_class: Any,
    path: str,
    config: PreTrainedConfig,
    *,
    dtype: torch.dtype,
    may_lack: Collection[str] = (),
    only_under: str = "",
    key_mapping: dict[str, str] | None = None,
) -> Any:
    """The network with the folder's weights; raises `WeightsError`, which names file and tensors.

    `may_lack`: tensors that the caller sets itself; `only_under`: the file's other tensors are for other networks.
    """
    require_safetensors(path)
    try:
        network, found = network_class.from_pretrained(
            path,
            config=config,
            dtype=dtype,
            trust_remote_code=False,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # said below, with the file
            output_loading_info=True,
            key_mapping=key_mapping,
        )
    except (OSError, SafetensorError, RuntimeError) as error:
        raise WeightsError(f"{path}: {_first_line(error)}; expected a model's weights, whole") from None
    tensors = set(network.state_dict())
    _refuse(path, "lacks", set(found["missing_keys"]) - set(may_lack), of=tensors)
    unexpected = [name for name in found["unexpected_keys"] if name.startswith(only_under)]
    _refuse(path, "holds tensors that the model does not have:", unexpected)
    _refuse(path, "holds tensors of other shapes:", {str(name) for name, *_ in found["mismatched_keys"]})
    _refuse(path, "holds numbers that are not finite in", _not_finite(network, leave_out=may_lack))
    return network


def require_safetensors(path: str | Path) -> None:
    """Raise `WeightsError` for a folder whose weights are pickled alone: to read those is to run what is in them."""
    folder = Path(path)
    pickled = sorted(file.name for pattern in PICKLED for file in folder.glob(pattern))
    if pickled and not any(folder.glob("*.safetensors")):
        raise WeightsError(
            f"{folder / pickled[0]} is a pickle, which may run code; expected model.safetensors or its shards beside it"
        )


def _not_finite(network: torch.nn.Module, *, leave_out: Collection[str]) -> Iterable[str]:
    """By the extremes of each parameter, which need no memory of its size."""
    for name, parameter in network.named_parameters():
        if name in leave_out or not parameter.is_floating_point() or not parameter.numel():
            continue
        if not torch.stack(torch.aminmax(parameter.detach())).isfinite().all():
            yield name


def _refuse(path: str, what: str, tensors: Iterable[str], *, of: Collection[str] = ()) -> None:
    names = sorted(tensors)
    if not names:
        return
    shown = ", ".join(names[:NUM_NAMES_SHOWN]) + (", ..." if len(names) > NUM_NAMES_SHOWN else "")
    count = f"{len(names)} of {len(of)} tensors, " if of else f"{len(names)}, " if len(names) > 1 else ""
    raise WeightsError(f"{_file_of(path, names[0])} {what} {count}{shown}; expected the weights of this model, whole")


def _file_of(path: str, tensor: str) -> Path:
    """The safetensors file that holds the tensor, or would; the folder where there are several and none has it."""
    folder = Path(path)
    index = folder / INDEX
    if not index.is_file():
        single = folder / "model.safetensors"
        return single if single.is_file() else folder
    try:
        file: str | None = json.loads(index.read_text(encoding="utf-8"))["weight_map"].get(tensor)
    except (ValueError, KeyError, AttributeError):
        return index
    return folder if file is None else folder / file


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
