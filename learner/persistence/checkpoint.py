"""Checkpoints: `checkpoints/global_step_N/{actor,critic}` that transformers loads, and what a resume needs beside them.

A checkpoint is written into a hidden folder, renamed when it is complete, and named last of all in `latest`: then it is
committed. A resume verifies that it is still complete, and else renames it to `damaged_...` and takes the one before.
`committed.jsonl` has the digests of the weights of every checkpoint ever committed. Nothing is pickled: texts are JSON,
arrays safetensors; the optimizers' state is torch's, read back as data only.
"""

import json
import logging
import shutil
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from learner.persistence.definition import FILE as DEFINITION
from learner.persistence.definition import Definition
from learner.persistence.manifest import DamagedError, verify, write_manifest
from learner.rollouts.ledger_state import LedgerState
from learner.step.progress import TrainingProgress
from learner.step.trainer import Trainer
from tppo import weights
from tppo.run_folder.checkpoints import DAMAGED_PREFIX, BestCheckpoint, CheckpointFolder, replaced, step_of
from tppo.run_folder.durable import sync, sync_tree, write_atomically
from tppo.run_folder.json_files import write_object
from tppo.run_folder.json_lines import JsonLinesWriter
from tppo.run_folder.metric_lines import EVALUATION, MeasuredAccuracy, deciding_accuracy

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Capture:
    """A copy of the whole state between two steps, to be written while training continues."""

    progress: TrainingProgress
    ledger: LedgerState
    actor: Mapping[str, Tensor]
    critic: Mapping[str, Tensor]
    optimizers: Mapping[str, Any]
    definition: Definition | None = None


@dataclass(frozen=True, slots=True)
class Restored:
    """What a resume starts from, besides the models."""

    progress: TrainingProgress
    ledger: LedgerState
    optimizers: Mapping[str, Any]


def capture(
    trainer: Trainer, progress: TrainingProgress, ledger: LedgerState, definition: Definition | None = None
) -> Capture:
    """Copies of the trainer's tensors, with progress, ledger and what defines the run."""
    return Capture(
        progress=progress,
        ledger=ledger,
        actor=_copied(trainer.policy.weights.tensors()),
        critic=_copied(trainer.value_model.weights.tensors()),
        optimizers=_copied(trainer.state_dict()),
        definition=definition,
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
        self.folder = CheckpointFolder(folder)
        self._keep = keep
        self._require_right = require_right
        self._committed = JsonLinesWriter(self.folder.committed_log, require_right=require_right)

    def usable(self) -> Path | None:
        """The newest committed checkpoint that is complete; None when none was ever committed.

        Damaged ones are renamed. Raises `DamagedError` when there is no other.
        """
        latest = self.folder.newest()
        if latest is None:
            return None
        if not latest.exists() and replaced(latest).exists():
            replaced(latest).rename(latest)  # its process ended between the two renames of `_put_in_place`
        damages = []
        for path in [latest, *reversed(self._before(step_of(latest)))]:
            try:
                verify(path)
            except DamagedError as damage:
                damages.append(str(damage))
                logger.warning("%s; trying the checkpoint before", damage)
                _rename_damaged(path)
            else:
                return path
        raise DamagedError(f"no checkpoint in {self.folder.path} is complete: {'; '.join(damages)}")

    def commit(
        self,
        state: Capture,
        trainer: Trainer,
        tokenizer: PreTrainedTokenizerBase,
        *,
        keep_also: Collection[int] = (),
    ) -> Path:
        """Write a checkpoint; when this returns it is the latest. Older ones beyond `keep` are deleted, but for the
        best and those of the steps `keep_also`. Raises OSError when the disk is full; the others stay as they are.
        """
        final = self.folder.of_step(state.progress.step)
        temporary = final.with_name(f".{final.name}.writing")
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            self._write(temporary, state, trainer, tokenizer)
            self._require_right()
            self._put_in_place(temporary, final)
        except (SafetensorError, RuntimeError) as error:  # how these libraries report a full disk
            raise OSError(f"{type(error).__name__}: {error}") from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        write_atomically(self.folder.latest, final.name.encode())
        shutil.rmtree(replaced(final), ignore_errors=True)
        self._note(state)
        self._delete_old(final, keep_also)
        return final

    def keep_if_best(self, step: int, accuracy: MeasuredAccuracy) -> None:
        """Keep the step's checkpoint for as long as no other is better by the same measure."""
        best = self.folder.best()
        if best is None or best.measure != accuracy.measure or accuracy.value > best.accuracy:
            write_object(self.folder.best_record, asdict(BestCheckpoint(step, accuracy.value, accuracy.measure)))

    def restore_best(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Where the record of the best is missing or damaged, write it again from the lines of metrics.jsonl."""
        if self.folder.best() is not None:
            return
        complete = self.folder.complete_steps()
        for line in lines:
            if line["kind"] == EVALUATION and line["step"] in complete and (accuracy := deciding_accuracy(line)):
                self.keep_if_best(line["step"], accuracy)

    def _write(self, temporary: Path, state: Capture, trainer: Trainer, tokenizer: PreTrainedTokenizerBase) -> None:
        temporary.mkdir(parents=True)
        trainer.policy.network.save_pretrained(temporary / "actor", state_dict=dict(state.actor))
        tokenizer.save_pretrained(temporary / "actor")
        trainer.value_model.network.save_pretrained(temporary / "critic", state_dict=dict(state.critic))
        torch.save(dict(state.optimizers), temporary / "optimizers.pt")
        save_file(state.ledger.tensors, temporary / "ledger.safetensors")
        (temporary / "ledger.json").write_text(json.dumps(state.ledger.plain), encoding="utf-8")
        (temporary / "progress.json").write_text(json.dumps(asdict(state.progress)), encoding="utf-8")
        if state.definition is not None:
            text = json.dumps(state.definition.as_json(), indent=1)
            (temporary / DEFINITION).write_text(text, encoding="utf-8")
        write_manifest(temporary)
        sync_tree(temporary)

    def _note(self, state: Capture) -> None:
        note = {
            "step": state.progress.step,
            "inbox_position": state.progress.inbox_position,
            "actor": weights.digest(state.actor),
            "critic": weights.digest(state.critic),
        }
        self._committed.append([note])

    def _put_in_place(self, temporary: Path, final: Path) -> None:
        """At every moment the step's checkpoint is there, or where `usable` finds it."""
        shutil.rmtree(replaced(final), ignore_errors=True)
        if final.exists():
            final.rename(replaced(final))
        temporary.rename(final)
        sync(self.folder.path)

    def _delete_old(self, newest: Path, keep_also: Collection[int]) -> None:
        best = self.folder.best()
        kept = set(keep_also) if best is None else {*keep_also, best.step}
        older = self._before(step_of(newest))
        for path in older[: len(older) - self._keep + 1]:
            if step_of(path) not in kept:
                shutil.rmtree(path)

    def _before(self, step: int) -> list[Path]:
        """Checkpoints of earlier steps, the oldest first."""
        return [self.folder.of_step(kept) for kept in self.folder.kept_steps() if kept < step]


def read(path: Path) -> Restored:
    """What `Checkpoints.commit` wrote, without the models."""
    optimizers = torch.load(path / "optimizers.pt", weights_only=True, map_location="cpu")
    plain = json.loads((path / "ledger.json").read_text(encoding="utf-8"))
    progress = TrainingProgress(**json.loads((path / "progress.json").read_text(encoding="utf-8")))
    return Restored(progress, LedgerState(plain, load_file(path / "ledger.safetensors")), optimizers)


def _rename_damaged(path: Path) -> None:
    damaged = path.with_name(DAMAGED_PREFIX + path.name)
    shutil.rmtree(damaged, ignore_errors=True)
    if path.exists():
        path.rename(damaged)


def _copied(value: Any) -> Any:
    """The same structure with its tensors copied to the CPU."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_copied(item) for item in value)
    return value
