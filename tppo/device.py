"""`model.device` -> the torch device that learner and generators use; one that is not here is refused."""

from collections.abc import Sequence

import torch

from tppo.config import ConfigError


def torch_device(name: str) -> str:
    """The device of that name on this machine. Raises `ConfigError`."""
    return chosen_device(name, _accelerators())


def chosen_device(name: str, accelerators: Sequence[str]) -> str:
    """`auto` is CUDA where there is one, else the CPU. Raises `ConfigError` when there is no such device."""
    kinds = {one.partition(":")[0] for one in accelerators}
    if name == "auto":
        return "cuda" if "cuda" in kinds else "cpu"
    if name == "cpu" or name in kinds or name in accelerators:
        return name
    *others, last = map(repr, ("auto", "cpu", *accelerators))
    raise ConfigError(
        f"model.device = {name!r}: PyTorch {torch.__version__} finds no such device on this machine; "
        f"expected {', '.join(others)} or {last}"
    )


def _accelerators() -> list[str]:
    """Such as cuda:0 and cuda:1; PyTorch is built for one kind."""
    found = torch.accelerator.current_accelerator(check_available=True)
    if found is None:
        return []
    numbered = [f"{found.type}:{number}" for number in range(torch.accelerator.device_count())]
    return ["mps"] if found.type == "mps" else numbered
