"""What each process of a run takes of its device's memory, beside what there is: `--dry-run` prints it."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from services.local.hardware.devices import GIBIBYTE, Machine
from services.local.hardware.model_shapes import UnknownShapeError, shapes_of
from tppo.config import Config
from tppo.config.placements import devices_of_a_generator
from tppo.config.sections.devices import Gpus
from tppo.config.sections.placement import Placement
from tppo.config.sections.training import OptimizerSection
from tppo.models.memory_estimate import (
    FLOAT32_BYTES,
    MEBIBYTE,
    PROCESS_BYTES,
    ModelShape,
    Training,
    generator_bytes,
    resident_bytes,
    update_bytes,
)

VLLM_SHARE_OF_DEVICE = 0.92  # vLLM's own `gpu_memory_utilization`
KEPT_ASLEEP = {"off": ("",), "kv_cache": ("weights", "weights that arrive", "process"), "weights": ("process",)}


@dataclass(frozen=True, slots=True)
class Share:
    """What a process takes of a device, in bytes by what it is for."""

    process: str
    device: str
    parts: dict[str, int]
    in_other_phase: int = 0
    """Of a learner that does not train, or of an engine that sleeps."""

    @property
    def total(self) -> int:
        """All of it."""
        return _sum(self.parts)


def memory_lines(config: Config, gpus: Gpus | None = None) -> Iterator[str]:
    """A line for each process, those that are alike together, and one for each device."""
    machine = Machine(gpus)
    try:
        learners, generators = Shares(config, machine).all()
    except UnknownShapeError as error:
        yield f"unknown: {error}"
        return
    for alike in (*_alike(learners), *_alike(generators)):
        parts = ", ".join(f"{name} {shown(size)}" for name, size in alike[0].parts.items())
        each = " each" if len(alike) > 1 else ""
        yield f"{_processes(alike)} on {_devices(alike)}: {shown(alike[0].total)}{each} ({parts})"
    needed = needed_by_device(learners, generators, sleeps=config.engine_sleep != "off")
    for size, devices in groupby(needed, key=lambda device: needed[device]):
        named = [Share("", device, {}) for device in devices]
        there = machine.memory(named[0].device)
        excess = ": more than there is" if size > there else ""
        yield f"{shown(size)} of the {shown(there)} of {_devices(named)}{excess}"


def needed_by_device(learners: Sequence[Share], generators: Sequence[Share], *, sleeps: bool) -> dict[str, int]:
    """The most that its processes take at one time: the sum, but for engines that sleep while the learner trains."""
    needed = {}
    for device in dict.fromkeys(share.device for share in (*learners, *generators)):
        training, sampling = ([one for one in shares if one.device == device] for shares in (learners, generators))
        phases = [sum(one.total for one in (*training, *sampling))]
        if sleeps:
            phases = [
                sum(one.total for one in busy) + sum(one.in_other_phase for one in idle)
                for busy, idle in ((training, sampling), (sampling, training))
            ]
        needed[device] = max(phases)
    return needed


def shown(size: int) -> str:
    """In GiB, or MiB where that is less than one."""
    return f"{size / GIBIBYTE:.1f} GiB" if size >= GIBIBYTE else f"{math.ceil(size / MEBIBYTE)} MiB"


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


def learner_share(models: Sequence[Trained], *, take_turns: bool, process: str = "learner") -> Share:
    """Of a device that has one model or both: the larger update counts, and with turns the larger model alone."""
    device = models[0].device
    there = [max(models, key=lambda model: model.total)] if take_turns else models
    resident = {f"{model.name}'s {part}": size for model in there for part, size in model.resident.items()}
    resident |= _process(device)
    update = max((model.update for model in there), key=_sum)
    return Share(process, device, resident | update, _sum(resident))


@dataclass(frozen=True, slots=True)
class Shares:
    """Of all processes of a run."""

    config: Config
    machine: Machine

    def all(self) -> tuple[list[Share], list[Share]]:
        """Those of the learner, and those of the generators. Raises `UnknownShapeError`."""
        policy, value_model = shapes_of(self.config.model)
        return self.learners(policy, value_model), self.generators(policy)

    def learners(self, policy: ModelShape, value_model: ModelShape) -> list[Share]:
        """One for each process and device."""
        learner, num_of_value_model = self.config.learner, self.config.critic.num_processes
        policies = [self._trained("policy", policy, rank) for rank in range(learner.num_processes)]
        with_value_model = range(self._num_processes(is_policy=False))
        value_models = [self._trained("value model", value_model, rank) for rank in with_value_model]
        apart: list[tuple[Trained, ...]] = [(one,) for one in (*policies, *value_models)]
        shares = []
        for rank, models in enumerate(apart if num_of_value_model else zip(policies, value_models, strict=True)):
            for device in dict.fromkeys(model.device for model in models):
                there = [model for model in models if model.device == device]
                take_turns = learner.offload_idle_model and device != "cpu"
                shares.append(learner_share(there, take_turns=take_turns, process=_numbered("learner", rank)))
        return shares

    def _trained(self, name: str, shape: ModelShape, rank: int) -> Trained:
        """`rank`: of the process, among those that have the model."""
        config, is_policy = self.config, name == "policy"
        placement = config.policy_placement if is_policy else config.value_model_placement
        section: OptimizerSection = config.actor if is_policy else config.critic
        device, num_sharing = self._device_of_rank(name, placement, rank), config.learner.fsdp_size
        training = Training(
            compute_bytes=_compute_bytes(placement),
            num_tokens=max(section.max_tokens_per_microbatch, self._longest_row),  # which is never divided
            checkpointing=config.learner.activation_checkpointing,
            device_bytes=self.machine.accelerator_bytes(device),
            num_processes=num_sharing or self._num_processes(is_policy=is_policy),
            sequence_size=config.learner.sequence_parallel_size,
            num_adapted=self._num_adapted(section, is_policy=is_policy),
            has_own_body=is_policy or not config.critic.share_body,
        )
        resident = resident_bytes(shape, training)
        if is_policy and config.run.algorithm == "ppo-ewma":
            of_adapters = FLOAT32_BYTES * (training.num_adapted or 0)
            resident["averaged weights"] = of_adapters or resident["weights"]
        return Trained(name, device, resident, update_bytes(shape, training, has_logits=is_policy))

    def _num_processes(self, *, is_policy: bool) -> int:
        """That have the model."""
        return (0 if is_policy else self.config.critic.num_processes) or self.config.learner.num_processes

    def _num_adapted(self, section: OptimizerSection, *, is_policy: bool) -> int | None:
        if not section.lora_rank:
            return None
        from transformers import AutoConfig

        from tppo.models.adapters import Lora, num_adapted

        model = self.config.model
        folder = model.path if is_policy else model.critic_path or model.path
        return num_adapted(AutoConfig.from_pretrained(folder, local_files_only=True), Lora.of(section))

    @property
    def _longest_row(self) -> int:
        return self.config.run.max_prompt_length + self.config.run.max_response_length

    def _device_of_rank(self, name: str, placement: Placement, rank: int) -> str:
        placed, is_policy = self.config.placement, name == "policy"
        if placed.policy is not None:
            return f"GPU {(placed.policy_numbers if is_policy else placed.value_model_numbers)[rank]}"
        device, num_of_value_model = self.machine.device(placement), self.config.critic.num_processes
        if device != "cuda" or self.config.learner.num_processes + num_of_value_model == 1:
            return device
        return f"cuda:{rank if is_policy or not num_of_value_model else self.config.learner.num_processes + rank}"

    def generators(self, shape: ModelShape) -> list[Share]:
        """One for each generator and device."""
        placement, section = self.config.generator_placement, self.config.generation
        shares = []
        for replica in range(section.replicas):
            numbers = self.config.placement.of_generator(replica, num_replicas=section.replicas)
            device = self.machine.device(placement)
            for name in [f"GPU {number}" for number in numbers] or [device]:
                parts = self._engine(shape, name) | _process(device)
                asleep = _sum({part: size for part, size in parts.items() if part in self._kept_asleep()})
                shares.append(Share(f"generation-{replica}", name, parts, asleep))
        return shares

    def _kept_asleep(self) -> Sequence[str]:
        """vLLM takes its weights to the host when it frees its KV cache alone."""
        sleep = self.config.engine_sleep
        return KEPT_ASLEEP["weights" if sleep == "kv_cache" and self.config.generation.engine == "vllm" else sleep]

    def _engine(self, shape: ModelShape, device: str) -> dict[str, int]:
        config, compute_bytes = self.config, _compute_bytes(self.config.generator_placement)
        parts = generator_bytes(
            shape, compute_bytes=compute_bytes, num_slots=config.generation.num_slots, num_tokens=self._longest_row
        )
        if config.actor.lora_rank and config.generation.engine != "vllm":
            parts["body"] = parts["weights"]  # to which each version of the adapters is added
        there = self.machine.accelerator_bytes(device)
        if config.generation.engine != "vllm" or there is None:
            return parts
        # One tensor after the other is read out of the host's memory; the KV cache takes what is left of vLLM's share.
        arguments: Any = config.generation.vllm
        weights = parts["weights"] // max(
            1, devices_of_a_generator(config) // (arguments.get("data_parallel_size") or 1)
        )
        taken = int(there * float(arguments.get("gpu_memory_utilization") or VLLM_SHARE_OF_DEVICE))
        return {"weights": weights, "KV cache and activations": max(0, taken - weights)}


def _alike(shares: Sequence[Share]) -> Iterator[list[Share]]:
    """Neighbours that take the same of devices of their own."""
    group: list[Share] = []
    for share in shares:
        if group and (share.parts != group[0].parts or share.device in (one.device for one in group)):
            yield group
            group = []
        group.append(share)
    if group:
        yield group


def _processes(shares: Sequence[Share]) -> str:
    names = list(dict.fromkeys(share.process for share in shares))
    return names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"


def _devices(shares: Sequence[Share]) -> str:
    """`GPUs 0-3`, where they are in a row."""
    names = [share.device for share in shares]
    numbers = [int(name.removeprefix("GPU ")) for name in names if name.startswith("GPU ")]
    if len(numbers) < 2 or numbers != list(range(numbers[0], numbers[-1] + 1)):
        return ", ".join(names)
    return f"GPUs {numbers[0]}-{numbers[-1]}"


def _numbered(role: str, rank: int) -> str:
    return f"{role}-{rank}" if rank else role


def _sum(parts: dict[str, int]) -> int:
    return sum(parts.values())


def _process(device: str) -> dict[str, int]:
    return {"process": PROCESS_BYTES} if device == "cpu" else {}


def _compute_bytes(placement: Placement) -> int:
    return 4 if placement.compute_dtype == "float32" else 2
