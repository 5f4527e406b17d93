"""Checkpoints: `checkpoints/global_step_N/{actor,critic}` that transformers loads, and what a resume needs beside them.

A checkpoint is written into a hidden folder, renamed when it is whole, and named last of all in `latest`; so whatever
`latest` names is complete. Nothing is pickled: texts are JSON, arrays safetensors; the optimizers' state is torch's,
read back as data only.
"""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from learner.ledger_state import LedgerState
from learner.run_identity import write_atomically
from learner.trainer import Trainer

PREFIX = "global_step_"
LATEST = "latest"


@dataclass(frozen=True, slots=True)
class Progress:
    """Where the run stands."""

    step: int  # training steps done; also the policy's version
    inbox_position: str  # everything up to it is in the ledger
    elapsed_seconds: float  # of all lives so far
    tokens_trained: int


@dataclass(frozen=True, slots=True)
class Capture:
    """A copy of the whole state between two steps, to be written while training goes on."""

    progress: Progress
    ledger: LedgerState
    actor: Mapping[str, Tensor]
    critic: Mapping[str, Tensor]
    optimizers: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Restored:
    """What a resume starts from, besides the models."""

    progress: Progress
    ledger: LedgerState
    optimizers: Mapping[str, Any]


def capture(trainer: Trainer, progress: Progress, ledger: LedgerState) -> Capture:
    """Copies of the trainer's tensors with the rest."""
    return Capture(
        progress=progress,
        ledger=ledger,
        actor=cloned(trainer.policy.network),
        critic=cloned(trainer.value_model.network),
        optimizers=_copied(trainer.state_dict()),
    )


def cloned(network: PreTrainedModel) -> dict[str, Tensor]:
    """The network's weights by name, on the CPU, tied ones once."""
    seen: set[int] = set()
    tensors: dict[str, Tensor] = {}
    for name, tensor in network.state_dict().items():
        if tensor.data_ptr() not in seen:
            seen.add(tensor.data_ptr())
            tensors[name] = tensor.detach().to("cpu", copy=True)
    return tensors


class Checkpoints:
    """The checkpoints of one run."""

    def __init__(self, folder: Path, *, keep: int, require_right: Callable[[], None] = lambda: None) -> None:
        """`require_right` raises when these checkpoints are no longer this process's to write."""
        self._folder = folder
        self._keep = keep
        self._require_right = require_right

    def latest(self) -> Path | None:
        """The newest committed checkpoint."""
        pointer = self._folder / LATEST
        return self._folder / pointer.read_text(encoding="utf-8").strip() if pointer.exists() else None

    def commit(self, state: Capture, trainer: Trainer, tokenizer: PreTrainedTokenizerBase) -> Path:
        """Write a checkpoint; when this returns it is the latest. Older ones beyond `keep` go."""
        final = self._folder / f"{PREFIX}{state.progress.step}"
        temporary = self._folder / f".{final.name}.writing"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        trainer.policy.network.save_pretrained(temporary / "actor", state_dict=dict(state.actor))
        tokenizer.save_pretrained(temporary / "actor")
        trainer.value_model.network.save_pretrained(temporary / "critic", state_dict=dict(state.critic))
        torch.save(dict(state.optimizers), temporary / "optimizers.pt")
        save_file(state.ledger.tensors, temporary / "ledger.safetensors")
        (temporary / "ledger.json").write_text(json.dumps(state.ledger.plain), encoding="utf-8")
        (temporary / "progress.json").write_text(json.dumps(_plain(state.progress)), encoding="utf-8")
        _sync(temporary)
        self._require_right()
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)
        write_atomically(self._folder / LATEST, final.name.encode())
        self._forget_old()
        return final

    def _forget_old(self) -> None:
        by_step = sorted(self._folder.glob(f"{PREFIX}*"), key=lambda path: int(path.name.removeprefix(PREFIX)))
        for path in by_step[: -self._keep]:
            shutil.rmtree(path)


def read(path: Path) -> Restored:
    """What `Checkpoints.commit` wrote, without the models."""
    optimizers = torch.load(path / "optimizers.pt", weights_only=True, map_location="cpu")
    plain = json.loads((path / "ledger.json").read_text(encoding="utf-8"))
    progress = Progress(**json.loads((path / "progress.json").read_text(encoding="utf-8")))
    return Restored(progress, LedgerState(plain, load_file(path / "ledger.safetensors")), optimizers)


def _plain(progress: Progress) -> dict[str, Any]:
    return {name: getattr(progress, name) for name in Progress.__slots__}


def _copied(value: Any) -> Any:
    """The same structure with its tensors copied to the CPU."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_copied(item) for item in value)
    return value


def _sync(folder: Path) -> None:
    """Force the files and their names to the disk before they are given their final name."""
    for path in [*folder.rglob("*"), folder]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
