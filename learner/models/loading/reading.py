"""Reads a network from a model's folder, and refuses a folder that holds another one or only a part of it.

transformers leaves what is missing at random numbers, and what is unexpected unread, with a line in the log; a run
would train on it.
"""

import json
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedConfig

from tppo.models.library_errors import first_line

SINGLE = "model.safetensors"
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
    require_weights(path)
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
        raise WeightsError(f"{path}: {first_line(error)}; expected a model's weights, whole") from None
    tensors = set(network.state_dict())
    _refuse(path, "lacks", set(found["missing_keys"]) - set(may_lack), of=tensors)
    unexpected = [name for name in found["unexpected_keys"] if name.startswith(only_under)]
    _refuse(path, "holds tensors that the model does not have:", unexpected)
    _refuse(path, "holds tensors of other shapes:", {str(name) for name, *_ in found["mismatched_keys"]})
    _refuse(path, "holds numbers that are not finite in", _not_finite(network, leave_out=may_lack))
    return network


def require_weights(path: str | Path) -> None:
    """Raise `WeightsError` for a folder without whole files of weights; their headers alone are read.

    Pickled ones do not count: to read those is to run what is in them.
    """
    folder = Path(path)
    pickled = sorted(file.name for pattern in PICKLED for file in folder.glob(pattern))
    if pickled and not any(folder.glob("*.safetensors")):
        raise WeightsError(
            f"{folder / pickled[0]} is a pickle, which may run code; expected model.safetensors or its shards beside it"
        )
    for file in _weight_files(folder):
        try:
            with safe_open(file, framework="pt"):
                pass
        except (OSError, SafetensorError) as error:
            raise WeightsError(f"{file}: {first_line(error)}; expected a file of weights, whole") from None


def _weight_files(folder: Path) -> list[Path]:
    """Those that transformers reads. Raises `WeightsError` where one is missing."""
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    index = folder / INDEX
    if not index.is_file():
        raise WeightsError(f"no {SINGLE} and no {INDEX} in {folder}; expected the model's weights")
    names = sorted(set(_weight_map(index).values()))
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        number = f"{len(missing)} of {len(names)} files"
        raise WeightsError(f"{index} names {number} that are not there, {_shown(missing)}; expected all of them")
    return [folder / name for name in names]


def _weight_map(index: Path) -> dict[str, str]:
    """Tensor -> file. Raises `WeightsError`."""
    try:
        found = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        return {str(tensor): str(file) for tensor, file in found.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise WeightsError(
            f"{index} has no weight_map; expected a table of tensors and the files they are in"
        ) from None


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
    count = f"{len(names)} of {len(of)} tensors, " if of else f"{len(names)}, " if len(names) > 1 else ""
    raise WeightsError(
        f"{_file_of(path, names[0])} {what} {count}{_shown(names)}; expected the weights of this model, whole"
    )


def _file_of(path: str, tensor: str) -> Path:
    """The safetensors file that holds the tensor, or would; the folder where there are several and none has it."""
    folder = Path(path)
    if (folder / SINGLE).is_file():
        return folder / SINGLE
    file = _weight_map(folder / INDEX).get(tensor)
    return folder if file is None else folder / file


def _shown(names: Sequence[str]) -> str:
    return ", ".join(names[:NUM_NAMES_SHOWN]) + (", ..." if len(names) > NUM_NAMES_SHOWN else "")
