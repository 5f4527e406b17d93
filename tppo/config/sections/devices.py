"""`[placement]`: which GPUs of the machine each network has, and when an engine gives its memory to the learner.

The keys of devices, `learner.device` and others, are names inside one process. `[placement]` numbers the machine's GPUs
instead: `tppo run` shows each process its own alone (CUDA_VISIBLE_DEVICES), so it decides those keys.
"""

import argparse
import re
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, BeforeValidator, Field

from tppo.config.sections.section import Section, expecting

Sleep = Literal["off", "kv_cache", "weights"]


def _as_text(value: Any) -> Any:
    """A number alone is a number to TOML."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _distinct(text: str) -> str:
    numbers = device_numbers(text)
    if not numbers or len(set(numbers)) < len(numbers):
        raise ValueError("a range that falls, or a GPU twice")
    return text


def device_numbers(text: str | None) -> tuple[int, ...]:
    """`0,2-4` -> 0, 2, 3, 4; none of what is unset."""
    numbers: list[int] = []
    for part in (text or "").split(",") if text else ():
        first, _, last = part.partition("-")
        if int(last or first) < int(first):
            return ()
        numbers += range(int(first), int(last or first) + 1)
    return tuple(numbers)


class Gpus(NamedTuple):
    """The GPUs of a machine, which need not be this one."""

    number: int
    gibibytes: float
    """Of each one's memory."""

    @classmethod
    def of(cls, text: str) -> "Gpus":
        """`8x80`: eight of 80 GiB each, on a command line. Raises `ArgumentTypeError`."""
        found = re.fullmatch(r"([1-9]\d{0,3})x([1-9]\d{0,3}(?:\.\d+)?)", text)
        if found is None:
            raise argparse.ArgumentTypeError(f"{text!r}; expected their number and the GiB of each, such as 8x80")
        return cls(int(found[1]), float(found[2]))

    @property
    def names(self) -> list[str]:
        """As torch has them."""
        return [f"cuda:{one}" for one in range(self.number)]

    def __str__(self) -> str:
        return f"{self.number}x{self.gibibytes:g}"


DeviceNumbers = Annotated[
    str,
    BeforeValidator(_as_text),
    Field(pattern=r"^\d{1,3}(-\d{1,3})?(,\d{1,3}(-\d{1,3})?)*$"),
    AfterValidator(_distinct),
    expecting("numbers of GPUs, each once, such as '0', '0,2' or '0-3'"),
]


class PlacementSection(Section):
    """Which of the machine's GPUs each network has, by number; docs/placement.md."""

    policy: DeviceNumbers | None = None
    """GPUs on which the learner trains the policy, one for each of its processes; unset: those of `learner.device` and
    the other keys of devices.

    On a machine with several GPUs, where else all processes are on the first: `"0"`, or `"0-3"`.
    """
    value_model: DeviceNumbers | None = None
    """GPUs of the value model; unset: the policy's.

    To another one, where the learner is one process and both models do not fit beside each other; to one for each of
    `critic.num_processes`, so that both models train at the same time.
    """
    generation: DeviceNumbers | None = None
    """GPUs of the generators, which are divided evenly among `generation.replicas`; unset: the policy's.

    To others than the learner's, so that both work at the same time. vLLM takes several for one generator
    (`tensor_parallel_size`), our own engine one.
    """
    sleep: Literal["auto", "off", "kv_cache", "weights"] = "auto"
    """What generators free while the learner trains, in lockstep: their KV caches, or their weights, too; `auto`:
    the KV caches where they share a GPU with the learner.

    `weights` where one GPU is too small for engine and learner together; the engine then waits for the next weights.
    """

    @property
    def policy_numbers(self) -> tuple[int, ...]:
        """GPUs of the policy; none where nothing is placed."""
        return device_numbers(self.policy)

    @property
    def value_model_numbers(self) -> tuple[int, ...]:
        """GPUs of the value model."""
        return device_numbers(self.value_model) or self.policy_numbers

    @property
    def generation_numbers(self) -> tuple[int, ...]:
        """GPUs of all generators."""
        return device_numbers(self.generation) or self.policy_numbers

    @property
    def learner_numbers(self) -> tuple[int, ...]:
        """What the learner's processes see: the policy's GPUs, then those that the value model has alone."""
        return tuple(dict.fromkeys((*self.policy_numbers, *self.value_model_numbers)))

    @property
    def is_shared(self) -> bool:
        """Whether a generator and the learner have a GPU in common."""
        return bool(set(self.learner_numbers) & set(self.generation_numbers))

    def of_generator(self, replica: int, *, num_replicas: int) -> tuple[int, ...]:
        """Its share: so many GPUs in a row, or one that several generators have in common."""
        numbers = self.generation_numbers
        if len(numbers) < num_replicas:
            return numbers[replica * len(numbers) // num_replicas :][:1]
        size = len(numbers) // num_replicas
        return numbers[replica * size : (replica + 1) * size]
