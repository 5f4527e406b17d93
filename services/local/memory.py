"""What each process of a run takes of its device's memory, beside what there is: `--dry-run` prints it."""

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tppo.config import Config
from tppo.config.placement import Placement
from tppo.config.training import OptimizerSection
from tppo.models.memory_estimate import (
    MEBIBYTE,
    PROCESS_BYTES,
    ModelShape,
    Training,
    generator_bytes,
    resident_bytes,
    update_bytes,
)

GIBIBYTE = 2**30


@dataclass(frozen=True, slots=True)
class Share:
    """What a process takes of a device, in bytes by what it is for."""

    process: str
    device: str
    parts: dict[str, int]

    @property
    def total(self) -> int:
        """All of it."""
        return _sum(self.parts)


def memory_lines(config: Config) -> Iterator[str]:
    """A line for each process, and one for each device."""
    if not stored_parameters(config.model.path):
        yield f"unknown, as {config.model.path} holds no safetensors files"
        return
    shares = [*_learner(config), *_generators(config)]
    for share in shares:
        parts = ", ".join(f"{name} {shown(size)}" for name, size in share.parts.items())
        yield f"{share.process} on {share.device}: {shown(share.total)} ({parts})"
    for device in dict.fromkeys(share.device for share in shares):
        needed, there = sum(share.total for share in shares if share.device == device), device_memory(device)
        excess = ": more than there is" if needed > there else ""
        yield f"{shown(needed)} of the {shown(there)} of {device}{excess}"


def shown(size: int) -> str:
    """In GiB, or MiB where that is less than one."""
    return f"{size / GIBIBYTE:.1f} GiB" if size >= GIBIBYTE else f"{math.ceil(size / MEBIBYTE)} MiB"


def stored_parameters(folder: Path) -> int:
    """Of the folder's safetensors files, by their headers; tied ones once."""
    from safetensors import safe_open

    found = 0
    for file in folder.glob("*.safetensors"):
        with safe_open(file, framework="np") as tensors:
            found += sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118
    return found


def device_memory(device: str) -> int:
    """Bytes that the device has, and for the CPU the machine."""
    import torch

    from tppo.models.device import device_bytes

    return device_bytes(torch.device(device)) or os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Trained:
    """A model of the learner."""

    name: str
    device: str
    resident: dict[str, int]
    update: dict[str, int]

    @property
    def total(self) -> int:
        """While it is updated."""
        return _sum(self.resident) + _sum(self.update)


def learner_share(models: Sequence[Trained], *, take_turns: bool) -> Share:
    """Of a device that has one model or both: the larger update counts, and with turns the larger model alone."""
    device = models[0].device
    there = [max(models, key=lambda model: model.total)] if take_turns else models
    resident = {f"{model.name}'s {part}": size for model in there for part, size in model.resident.items()}
    update = max((model.update for model in there), key=_sum)
    return Share("learner", device, resident | update | _process(device))


def _learner(config: Config) -> list[Share]:
    models = [
        _trained(config, "policy", _shape(config.model.path), config.policy_placement, config.actor),
        _trained(config, "value model", _value_shape(config), config.value_model_placement, config.critic),
    ]
    devices = dict.fromkeys(model.device for model in models)
    on_device = {device: [model for model in models if model.device == device] for device in devices}
    return [
        learner_share(of_device, take_turns=config.learner.offload_idle_model and device != "cpu")
        for device, of_device in on_device.items()
    ]


def _trained(config: Config, name: str, shape: ModelShape, placement: Placement, section: OptimizerSection) -> Trained:
    training, is_policy = _training(config, placement, section), name == "policy"
    resident = resident_bytes(shape, training)
    if is_policy and config.run.algorithm == "ppo-ewma":
        resident["averaged weights"] = resident["weights"]
    return Trained(name, _device(placement), resident, update_bytes(shape, training, has_logits=is_policy))


def _sum(parts: dict[str, int]) -> int:
    return sum(parts.values())


def _generators(config: Config) -> list[Share]:
    placement, run = config.generator_placement, config.run
    device = _device(placement)
    parts = generator_bytes(
        _shape(config.model.path),
        compute_bytes=_compute_bytes(placement),
        num_slots=config.generation.num_slots,
        num_tokens=run.max_prompt_length + run.max_response_length,
    )
    return [
        Share(f"generation-{index}", device, parts | _process(device)) for index in range(config.generation.replicas)
    ]


def _process(device: str) -> dict[str, int]:
    return {"process": PROCESS_BYTES} if device == "cpu" else {}


def _shape(folder: Path) -> ModelShape:
    from transformers import AutoConfig

    return ModelShape.of(AutoConfig.from_pretrained(folder, local_files_only=True), stored_parameters(folder))


def _value_shape(config: Config) -> ModelShape:
    """Of the critic's folder, else of the policy's body."""
    if config.model.critic_path is not None and stored_parameters(config.model.critic_path):
        return _shape(config.model.critic_path)
    return _shape(config.model.path).body()


def _training(config: Config, placement: Placement, section: OptimizerSection) -> Training:
    import torch

    from tppo.models.device import device_bytes

    return Training(
        compute_bytes=_compute_bytes(placement),
        num_tokens=section.max_tokens_per_microbatch,
        checkpointing=config.learner.activation_checkpointing,
        device_bytes=device_bytes(torch.device(_device(placement))),
    )


def _compute_bytes(placement: Placement) -> int:
    return 4 if placement.compute_dtype == "float32" else 2


def _device(placement: Placement) -> str:
    from tppo.models.device import torch_device

    return torch_device(placement)
