"""What besides its records a run's numbers depend on, and how much of them a replay gives again.

Each incarnation of the learner writes its conditions into the journal. On the same ones, all deterministic, a replay
gives the same bits. By another number or division of processes, on another device or with other versions the same rows
form the same steps and the same ledger, and weights are close. Another model or definition of the run is refused
(learner/persistence/definition.py).
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

from learner.parallel.process_counts import ProcessCounts
from tppo.config import Config
from tppo.run_folder.json_lines import read_objects
from tppo.run_folder.paths import RunPaths

WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
FIXED_WORKSPACE = ":4096:8"  # with which cuBLAS adds up in one order


@dataclass(frozen=True, slots=True)
class Conditions:
    """Of one incarnation of the learner."""

    num_processes: int
    device: str
    is_deterministic: bool
    torch: str
    transformers: str
    sequence_parallel_size: int = 1
    fsdp_size: int | None = None
    num_value_processes: int = 0  # that have the value model alone
    flushes_denormals: bool = False

    @classmethod
    def of(cls, config: Config, counts: ProcessCounts) -> Self:
        """On this machine."""
        import torch  # not for the audit, which reads what was written
        import transformers

        from tppo.models.denormals import are_flushed
        from tppo.models.device import torch_device

        device = torch_device(config.policy_placement)
        name = torch.cuda.get_device_name(device) if device.startswith("cuda") else device
        is_deterministic = is_to_be_deterministic(config, device)
        return cls(
            counts.of_policy,
            name,
            is_deterministic,
            torch.__version__,
            transformers.__version__,
            config.learner.sequence_parallel_size,
            config.learner.fsdp_size,
            num_value_processes=counts.of_value_model,
            flushes_denormals=are_flushed(),
        )

    def as_json(self) -> dict[str, Any]:
        """For the journal."""
        return asdict(self)


def is_to_be_deterministic(config: Config, device: str) -> bool:
    """As configured; unset: on a CPU, where it costs nothing."""
    return device == "cpu" if config.learner.deterministic is None else config.learner.deterministic


def fix_workspace(config: Config) -> None:
    """In this process and those that it starts, where the configuration wants the same bits on a GPU.

    Before torch is imported: cuBLAS reads it when CUDA begins, which is when a model comes to its device.
    """
    if config.learner.deterministic:
        os.environ.setdefault(WORKSPACE, FIXED_WORKSPACE)


def compute_deterministically(config: Config) -> None:
    """From now on, where the configuration wants it; a CPU does so anyway. See `fix_workspace`."""
    import torch

    from tppo.models.device import torch_device

    device = torch_device(config.policy_placement)
    if device == "cpu":
        return
    torch.use_deterministic_algorithms(is_to_be_deterministic(config, device))
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # nothing of ours reads it


@dataclass(frozen=True, slots=True)
class Level:
    """How much a replay gives again: bits, or rows, steps and ledger, with the reason."""

    is_same_bits: bool
    reason: str

    @classmethod
    def of(cls, incarnations: Sequence[Mapping[str, Any]]) -> Self:
        """Of the incarnations of a run, and of a replay of it where there is one."""
        if not incarnations:
            return cls(False, "the journal has the conditions of no incarnation")
        first = incarnations[0]
        for part in fields(Conditions):
            default = None if part.default is MISSING else part.default  # of journals without the key
            values = [one.get(part.name, default) for one in incarnations]
            if other := [value for value in values if value != values[0]]:
                return cls(False, f"{part.name} is {values[0]!r} in one and {other[0]!r} in another")
        if not first.get("is_deterministic"):
            return cls(False, "learner.deterministic is off")
        return cls(True, f"by {ProcessCounts.of(first)} on {first['device']}, torch {first['torch']}")

    def __str__(self) -> str:
        """For the console."""
        given = "the same bits" if self.is_same_bits else "the same rows, steps and ledger, with weights that are close"
        return f"{given} ({self.reason})"


def conditions_in(run: Path) -> list[Mapping[str, Any]]:
    """Of each incarnation, by the run's journal; those of earlier releases did not say."""
    lines = read_objects(RunPaths(run).journal)
    return [line["conditions"] for line in lines if isinstance(line.get("conditions"), dict)]


def trained_rows(run: Path) -> dict[int, list[Any]]:
    """The windows of each step, by the run's journal, of which the last line of a step counts."""
    lines = read_objects(RunPaths(run).journal)
    return {line["step"]: line["rows"] for line in lines if line.get("kind") == "trained"}


def first_step_of_other_rows(run: Path, replayed: Path) -> int | None:
    """The first step of both that other rows formed; None where there is none."""
    recorded, again = trained_rows(run), trained_rows(replayed)
    return next((step for step in sorted(recorded.keys() & again.keys()) if recorded[step] != again[step]), None)
