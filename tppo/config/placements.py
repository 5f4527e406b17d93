"""What of `[placement]` contradicts the other keys of devices, or the processes that there are: a sentence each."""

from collections.abc import Iterator
from math import prod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tppo.config.schema import Config

PARALLEL_SIZES = ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size")
"""vLLM's, each of which multiplies the devices of one generator."""


def contradictions(config: "Config") -> Iterator[str]:
    """One sentence each."""
    yield from _sleep(config)
    placement = config.placement
    if placement.policy is None:
        for name in ("value_model", "generation"):
            if getattr(placement, name) is not None:
                yield (
                    f"placement.{name} = {getattr(placement, name)!r} without placement.policy; expected the numbers "
                    "of the policy's GPUs, too"
                )
        return
    yield from _keys_of_devices(config)
    yield from _learner(config)
    yield from _generators(config)


def devices_of_a_generator(config: "Config") -> int:
    """That its engine spreads over."""
    if config.generation.engine != "vllm":
        return 1
    sizes = (config.generation.vllm.get(name) or 1 for name in PARALLEL_SIZES)
    return prod(size for size in sizes if isinstance(size, int))


def _keys_of_devices(config: "Config") -> Iterator[str]:
    """`auto` and `cuda` say nothing against a placement."""
    keys = {"learner": config.learner.device, "critic": config.critic.device, "generation": config.generation.device}
    for section, device in keys.items():
        if device not in (None, "auto", "cuda"):
            yield (
                f"{section}.device = {device!r} with placement.policy = {config.placement.policy!r}, which decides the "
                "devices of all networks; expected no such key, or no [placement]"
            )


def _learner(config: "Config") -> Iterator[str]:
    policy, value_model = config.placement.policy_numbers, config.placement.value_model_numbers
    num_processes = config.learner.num_processes
    if len(policy) != num_processes:
        yield (
            f"placement.policy = {config.placement.policy!r} names {len(policy)} GPUs with learner.num_processes = "
            f"{num_processes}; expected one for each process"
        )
    if num_of_value_model := config.critic.num_processes:
        if len(value_model) != num_of_value_model:
            key = "policy" if config.placement.value_model is None else "value_model"
            yield (
                f"placement.{key} = {getattr(config.placement, key)!r} names {len(value_model)} GPUs with "
                f"critic.num_processes = {num_of_value_model}; expected one for each of the value model's processes"
            )
    elif value_model != policy and (num_processes > 1 or len(value_model) != 1):
        expected = "the same GPUs, or no such key" if num_processes > 1 else "the same GPU, or another one"
        yield (
            f"placement.value_model = {config.placement.value_model!r} with placement.policy = "
            f"{config.placement.policy!r}; expected {expected}"
        )


def _generators(config: "Config") -> Iterator[str]:
    numbers, num_replicas = config.placement.generation_numbers, config.generation.replicas
    key = "policy" if config.placement.generation is None else "generation"
    named, num_needed = f"placement.{key} = {getattr(config.placement, key)!r}", devices_of_a_generator(config)
    if num_needed == 1 and len(numbers) < num_replicas:
        if num_replicas % len(numbers):
            yield (
                f"{named} with generation.replicas = {num_replicas}: they cannot share {len(numbers)} GPUs evenly; "
                "expected a divisor or a multiple of their number"
            )
    elif len(numbers) != num_replicas * num_needed:
        of_each = f"of {num_needed} GPUs each (generation.vllm), " if num_needed > 1 else ""
        yield (
            f"{named} names {len(numbers)} GPUs with generation.replicas = {num_replicas}, {of_each}"
            f"which use {num_replicas * num_needed}; expected so many"
        )


def _sleep(config: "Config") -> Iterator[str]:
    sleep, mode = config.placement.sleep, config.run.mode
    if sleep in ("kv_cache", "weights") and mode != "lockstep":
        yield (
            f"placement.sleep = {sleep!r} with run.mode = {mode!r}, in which generators work while the learner trains; "
            "expected 'auto' or 'off', or run.mode = 'lockstep'"
        )
