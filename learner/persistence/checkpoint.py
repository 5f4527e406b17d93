"""Checkpoints: `checkpoints/global_step_N/{actor,critic}` that transformers loads, and what a resume needs beside them.

A checkpoint is written into a hidden folder, renamed when it is complete, and named last of all in `latest`: then it is
committed. A resume verifies that it is still complete, and else renames it to `damaged_...` and takes the one before.
`committed.jsonl` has the digests of the weights of every checkpoint ever committed. Nothing is pickled: texts are JSON,
arrays safetensors.

The large tensors are not copied: they are written from where they lie, before the next step changes them; so are the
ledger's token arrays, which only grow.
"""

import json
import logging
import shutil
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from transformers import PreTrainedTokenizerBase

from learner.models.loading.named_tensors import copied
from learner.parallel.tensor_file import write_parts
from learner.persistence.definition import FILE as DEFINITION
from learner.persistence.definition import Definition
from learner.persistence.manifest import DamagedError, refuse_pickles, verify, write_manifest
from learner.persistence.network_folders import describe_network
from learner.rollouts.ledger_state import LedgerCapture, LedgerState
from learner.step.progress import TrainingProgress
from learner.step.trainer import Trainer
from learner.step.trainer_state import StateParts, TrainerState
from tppo.run_folder.checkpoints import DAMAGED_PREFIX, BestCheckpoint, CheckpointFolder, replaced, step_of
from tppo.run_folder.durable import sync, sync_tree, write_atomically
from tppo.run_folder.json_files import write_object
from tppo.run_folder.json_lines import JsonLinesWriter
from tppo.run_folder.metric_lines import EVALUATION, MeasuredAccuracy, deciding_accuracy

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Capture:
    """The whole state between two steps."""

    progress: TrainingProgress
    ledger: LedgerCapture
    trainer: TrainerState
    definition: Definition | None = None

    @property
    def num_bytes(self) -> int:
        """Size of its tensors."""
        return self.trainer.num_bytes + self.ledger.num_bytes


@dataclass(frozen=True, slots=True)
class Restored:
    """What a resume starts from, besides the models."""

    progress: TrainingProgress
    ledger: LedgerState
    trainer: Mapping[str, Any]


def capture(
    trainer: Trainer, progress: TrainingProgress, ledger: LedgerCapture, definition: Definition | None = None
) -> Capture:
    """What a checkpoint of this moment consists of."""
    return Capture(progress, ledger, trainer.captured(), definition)


class Checkpoints:
    """The checkpoints of one run."""

    def __init__(
        self,
        folder: Path,
        *,
        keep: int,
        require_right: Callable[[], None] = lambda: None,
        free_bytes: Callable[[Path], int] = lambda folder: shutil.disk_usage(folder).free,
    ) -> None:
        """`require_right` raises when these checkpoints are no longer this process's to write."""
        self.folder = CheckpointFolder(folder)
        self._free_bytes = free_bytes
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
                refuse_pickles(path)
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
        when_read: Callable[[], object] = lambda: None,
    ) -> Path:
        """Write a checkpoint; when this returns it is the latest. Older ones beyond `keep` are deleted, but for the
        best and those of the steps `keep_also`. Raises OSError when the disk is full; the others stay as they are.

        `when_read` is called as soon as the state's tensors may change.
        """
        final = self.folder.of_step(state.progress.step)
        temporary = final.with_name(f".{final.name}.writing")
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            temporary.mkdir(parents=True)
            self._require_space(state)
            note = _write(temporary, state, trainer, tokenizer)
            when_read()
            sync_tree(temporary)
            self._require_right()
            self._put_in_place(temporary, final)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        write_atomically(self.folder.latest, final.name.encode())
        shutil.rmtree(replaced(final), ignore_errors=True)
        self._committed.append([note])
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

    def _require_space(self, state: Capture) -> None:
        needed, free = state.num_bytes, self._free_bytes(self.folder.path)
        if needed > free:
            expected = f"expected {_gigabytes(needed)} for the next checkpoint, beside the {self._keep} that are kept"
            raise OSError(f"{self.folder.path} has {_gigabytes(free)} free; {expected} (checkpoint.keep)")

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
        for path in older[: max(0, len(older) - self._keep + 1)]:
            if step_of(path) not in kept:
                shutil.rmtree(path)

    def _before(self, step: int) -> list[Path]:
        """Checkpoints of earlier steps, the oldest first."""
        return [self.folder.of_step(kept) for kept in self.folder.kept_steps() if kept < step]


def read(path: Path, *, is_divided: bool = False, without: Collection[str] = ()) -> Restored:
    """What `Checkpoints.commit` wrote, without the models, and `without` these parts of the trainer's state.

    `is_divided`: ranks copy their rows of the trainer's tensors, which are views of the files till then.
    """
    plain = json.loads((path / "ledger.json").read_text(encoding="utf-8"))
    progress = TrainingProgress(**json.loads((path / "progress.json").read_text(encoding="utf-8")))
    tensors = {
        name: tensor
        for file in sorted(path.glob("trainer*.safetensors"))
        for name, tensor in load_file(file).items()
        if name.partition(".")[0] not in without
    }
    small = {name: tensor for name, tensor in tensors.items() if tensor.ndim == 0}
    parts = json.loads((path / "trainer.json").read_text(encoding="utf-8"))["items"]
    trainer = StateParts(
        {"items": [part for part in parts if part[0] not in without]},
        tensors | copied(small) if is_divided else copied(tensors),  # in memory of its own, not in the file's
    )
    return Restored(progress, LedgerState(plain, load_file(path / "ledger.safetensors")), trainer.whole())


def read_for(trainer: Trainer, path: Path) -> Restored:
    """What this process's trainer needs of it."""
    return read(path, is_divided=trainer.is_divided, without=trainer.absent)


def _write(folder: Path, state: Capture, trainer: Trainer, tokenizer: PreTrainedTokenizerBase) -> Mapping[str, Any]:
    """All files of a checkpoint; its line of committed.jsonl."""
    written = trainer.write(state.trainer, folder, describe_network)
    if written.error:
        raise OSError(written.error)
    _save_tokenizer(tokenizer, folder / "actor")
    ledger = write_parts(folder / "ledger.safetensors", state.ledger.tensors())
    with (folder / "ledger.json").open("w", encoding="utf-8") as file:
        file.writelines(state.ledger.json_parts())
    texts = {
        "trainer.json": written.plain,
        "progress.json": asdict(state.progress),
        **({} if state.definition is None else {DEFINITION: state.definition.as_json()}),
    }
    for name, content in texts.items():
        (folder / name).write_text(json.dumps(content), encoding="utf-8")
    write_manifest(folder, {**written.files, "ledger.safetensors": ledger})
    return {
        "step": state.progress.step,
        "inbox_position": state.progress.inbox_position,
        "actor": written.digests["actor"],
        "critic": written.digests["critic"],
        **trainer.roles.counts.as_json(),
    }


def _save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    try:
        tokenizer.save_pretrained(folder)
    except OSError:
        raise
    except Exception as error:  # of no other type is what its part in Rust raises for a full disk
        raise OSError(f"{folder}: the tokenizer cannot be written: {error}") from error


def _gigabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.3g} GB"


def _rename_damaged(path: Path) -> None:
    damaged = path.with_name(DAMAGED_PREFIX + path.name)
    shutil.rmtree(damaged, ignore_errors=True)
    if path.exists():
        path.rename(damaged)
