"""The device that a network is to be on -> one of torch; a device that is not here is refused."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:  # what computes runs where no configuration library is installed
    from tppo.config.sections.devices import PlacementSection
    from tppo.config.sections.placement import Placement


def torch_device(placement: "Placement") -> str:
    """The device on this machine. Raises `ConfigError`."""
    return chosen_device(placement.device, accelerators(), key=placement.device_key)


def chosen_device(name: str, accelerators: Sequence[str], *, key: str) -> str:
    """`auto` is CUDA where there is one, else the CPU. Raises `ConfigError` when there is no such device."""
    kinds = {one.partition(":")[0] for one in accelerators}
    if name == "auto":
        return "cuda" if "cuda" in kinds else "cpu"
    if name == "cpu" or name in kinds or name in accelerators:
        return name
    from tppo.config import ConfigError

    *others, last = map(repr, ("auto", "cpu", *accelerators))
    raise ConfigError(
        f"{key} = {name!r}: PyTorch {torch.__version__} finds no such device on this machine; "
        f"expected {', '.join(others)} or {last}"
    )


def require_numbers(placement: "PlacementSection", there: Sequence[str]) -> None:
    """Raise `ConfigError` where a number is none of the accelerators that are there."""
    cuda = [name for name in there if name.startswith("cuda")]
    for key in ("policy", "value_model", "generation"):
        numbers = getattr(placement, f"{key}_numbers")
        if getattr(placement, key) is not None and max(numbers) >= len(cuda):
            from tppo.config import ConfigError

            found = f"{len(cuda)} CUDA devices" if len(cuda) != 1 else "1 CUDA device"
            raise ConfigError(
                f"placement.{key} = {getattr(placement, key)!r}: PyTorch {torch.__version__} finds {found}; expected "
                f"{f'numbers below {len(cuda)}' if cuda else 'no [placement]'}, or --dry-run --gpus NxGIB, to check "
                "the run for another machine"
            )


def device_bytes(device: torch.device) -> int | None:
    """Of an accelerator's memory; None for the CPU, whose memory other processes use as well."""
    if device.type != "cuda":
        return None
    total: int = torch.cuda.get_device_properties(device).total_memory
    return total


def accelerators() -> list[str]:
    """Of this machine, such as cuda:0 and cuda:1; PyTorch is built for one kind."""
    found = torch.accelerator.current_accelerator(check_available=True)
    if found is None:
        return []
    numbered = [f"{found.type}:{number}" for number in range(torch.accelerator.device_count())]
    return ["mps"] if found.type == "mps" else numbered
