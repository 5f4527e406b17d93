"""The devices of the machine that a run is for, and which of its GPUs each process of `tppo run` sees."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from tppo.config import Config, ConfigError
from tppo.config.sections.devices import Gpus
from tppo.config.sections.placement import Placement

VISIBLE_VARIABLE = "CUDA_VISIBLE_DEVICES"
ORDER_VARIABLE = "CUDA_DEVICE_ORDER"
GIBIBYTE = 2**30


def device_environment(config: Config, child: str, environment: Mapping[str, str]) -> dict[str, str]:
    """Of the learner and the generators where devices are placed; the numbers are nvidia-smi's.

    Where the user's own variable shows some GPUs alone, as batch systems do, the numbers count those.
    """
    role, _, replica = child.partition("-")
    if config.placement.policy is None or role not in ("learner", "generation"):
        return {}
    if role == "learner":
        numbers = config.placement.learner_numbers
    else:
        numbers = config.placement.of_generator(int(replica), num_replicas=config.generation.replicas)
    shown = {VISIBLE_VARIABLE: ",".join(visible_devices(numbers, environment.get(VISIBLE_VARIABLE)))}
    return {ORDER_VARIABLE: environment.get(ORDER_VARIABLE, "PCI_BUS_ID"), **shown}


def visible_devices(numbers: Sequence[int], shown: str | None) -> list[str]:
    """What a process is to see of those that this one is shown; None: all. Raises `ConfigError`."""
    if shown is None:
        return [str(number) for number in numbers]
    names = [name.strip() for name in shown.split(",") if name.strip()]
    missing = next((number for number in numbers if number >= len(names)), None)
    if missing is not None:
        raise ConfigError(
            f"[placement] names GPU {missing}, and {VISIBLE_VARIABLE} = {shown!r} shows {len(names)}; expected numbers "
            f"below {len(names)}"
        )
    return [names[number] for number in numbers]


@dataclass(frozen=True)
class Machine:
    """The one that the run is for: this one, or that of `gpus`."""

    gpus: Gpus | None = None

    def device(self, placement: Placement) -> str:
        """Of torch. Raises `ConfigError`."""
        from tppo.models.device import chosen_device

        return chosen_device(placement.device, self._accelerators, key=placement.device_key)

    @cached_property
    def _accelerators(self) -> list[str]:
        from tppo.models.device import accelerators

        return self.gpus.names if self.gpus else accelerators()

    def accelerator_bytes(self, device: str) -> int | None:
        """Its memory; None for the CPU."""
        import torch

        from tppo.models.device import device_bytes

        name = device.replace("GPU ", "cuda:")
        if self.gpus is not None and name.startswith("cuda"):
            return int(self.gpus.gibibytes * GIBIBYTE)
        return device_bytes(torch.device(name))

    def memory(self, device: str) -> int:
        """Bytes that the device has, and for the CPU the machine."""
        return self.accelerator_bytes(device) or os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
