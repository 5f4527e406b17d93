"""Checkpoints on the disk: committed, damaged, refused by a full disk, kept and deleted."""

import json
from pathlib import Path

import pytest
import torch

from learner.models.loading.loading import load_policy, value_model_from_policy
from learner.models.loading.named_tensors import stored_tensors
from learner.persistence.checkpoint import Capture, Checkpoints, capture
from learner.persistence.manifest import DamagedError
from learner.state import new_trainer
from learner.step.progress import TrainingProgress
from tests.learner.builders import no_rollouts
from tests.learner.laboratory import Laboratory, NoTokenizer
from tests.support.small_disk import files_of_at_most
from tppo import weights
from tppo.digests import UnknownAlgorithmError, file_digest
from tppo.run_folder.metric_lines import ACCURACY, MeasuredAccuracy


class Disk:
    """The checkpoints of a run whose weights never change."""

    def __init__(self, folder: Path, *, keep: int = 10) -> None:
        laboratory = Laboratory(folder, "streaming")
        base = str(folder / "base")
        self.trainer = new_trainer(laboratory.config, load_policy(base), value_model_from_policy(base))
        self.folder = folder / "checkpoints"
        self.checkpoints = Checkpoints(self.folder, keep=keep)

    def state(self, step: int) -> Capture:
        return capture(self.trainer, TrainingProgress(step, f"{step}-0", 0.0, 0), no_rollouts())

    def commit(self, *steps: int, keep_also: tuple[int, ...] = ()) -> None:
        for step in steps:
            self.checkpoints.commit(
                self.state(step), self.trainer, NoTokenizer(), keep_also=keep_also  # type: ignore[arg-type]
            )  # fmt: skip

    def steps(self) -> list[int]:
        return sorted(int(path.name.rpartition("_")[2]) for path in self.folder.glob("global_step_*"))

    def best_step(self) -> int | None:
        best = self.checkpoints.folder.best()
        return None if best is None else best.step

    def usable_step(self) -> int | None:
        path = self.checkpoints.usable()
        return int(path.name.rpartition("_")[2]) if path else None


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path)


def test_a_run_without_checkpoints_has_no_usable_one(disk: Disk) -> None:
    assert disk.checkpoints.usable() is None


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("actor/model.safetensors", lambda path: path.write_bytes(path.read_bytes()[:-1]), "bytes; expected"),
        ("critic/model.safetensors", lambda path: path.write_bytes(bytes(path.stat().st_size)), "other bytes than"),
        ("ledger.json", lambda path: path.unlink(), "is missing"),
        ("manifest.json", lambda path: path.unlink(), "has no readable manifest.json"),
    ],
)
def test_a_damaged_checkpoint_is_renamed_and_the_one_before_is_used(
    disk: Disk, caplog: pytest.LogCaptureFixture, name: str, damage: object, message: str
) -> None:
    disk.commit(1, 2)
    assert callable(damage)
    damage(disk.folder / "global_step_2" / name)

    assert disk.usable_step() == 1

    assert message in caplog.text
    assert (disk.folder / "damaged_global_step_2").is_dir()
    disk.commit(2)
    assert disk.usable_step() == 2


def test_without_a_complete_checkpoint_the_error_names_each_damage(disk: Disk) -> None:
    disk.commit(1, 2)
    for step in (1, 2):
        (disk.folder / f"global_step_{step}" / "progress.json").unlink()

    with pytest.raises(DamagedError, match=r"(?s)no checkpoint in .* is complete: .*step_2/.*step_1/"):
        disk.checkpoints.usable()


def test_a_half_written_checkpoint_is_never_used(disk: Disk) -> None:
    disk.commit(1)
    (disk.folder / ".global_step_2.writing").mkdir()
    (disk.folder / "global_step_3").mkdir()  # renamed, but its process was killed before it was named in `latest`

    assert disk.usable_step() == 1


def test_a_checkpoint_being_replaced_is_found_when_its_process_was_killed(disk: Disk) -> None:
    disk.commit(1, 2)
    (disk.folder / "global_step_2").rename(disk.folder / ".global_step_2.replaced")

    assert disk.usable_step() == 2
    disk.commit(2)
    assert (disk.steps(), disk.usable_step()) == ([1, 2], 2)
    assert not list(disk.folder.glob(".*"))


@pytest.mark.parametrize("num_bytes", [64, 4096])
def test_a_full_disk_is_an_os_error_and_harms_no_checkpoint(disk: Disk, num_bytes: int) -> None:
    disk.commit(1)

    with files_of_at_most(num_bytes), pytest.raises(OSError, match=r"large|writ|fail"):
        disk.commit(2)

    assert disk.usable_step() == 1
    assert not list(disk.folder.glob(".*"))
    disk.commit(2)
    assert disk.usable_step() == 2


def test_a_disk_that_is_full_at_the_tokenizer_is_an_os_error(disk: Disk) -> None:
    class OfRust(NoTokenizer):
        def save_pretrained(self, _folder: Path) -> None:
            raise Exception("No space left on device (os error 28)")

    with pytest.raises(OSError, match=r"actor: the tokenizer cannot be written: No space left"):
        disk.checkpoints.commit(disk.state(1), disk.trainer, OfRust())  # type: ignore[arg-type]

    assert disk.usable_step() is None


def test_the_newest_and_the_best_are_kept(tmp_path: Path) -> None:
    disk = Disk(tmp_path, keep=2)
    disk.commit(1, 2)
    disk.checkpoints.keep_if_best(1, MeasuredAccuracy(ACCURACY, 0.5))
    disk.commit(3, 4)
    disk.checkpoints.keep_if_best(3, MeasuredAccuracy(ACCURACY, 0.4))
    disk.commit(5)

    assert (disk.steps(), disk.best_step()) == ([1, 4, 5], 1)

    disk.checkpoints.keep_if_best(4, MeasuredAccuracy(ACCURACY, 0.75))
    disk.commit(6)
    assert (disk.steps(), disk.best_step()) == ([4, 5, 6], 4)


@pytest.mark.parametrize("keep", [1, 2, 4, 5])
def test_as_many_as_configured_are_kept_and_none_is_deleted_before(tmp_path: Path, keep: int) -> None:
    disk = Disk(tmp_path, keep=keep)

    for step in range(1, 7):
        disk.commit(step)
        assert disk.steps() == list(range(max(1, step - keep + 1), step + 1))


def test_a_checkpoint_whose_evaluation_is_under_way_is_kept(tmp_path: Path) -> None:
    disk = Disk(tmp_path, keep=1)

    disk.commit(1)
    disk.commit(2, 3, keep_also=(1,))

    assert disk.steps() == [1, 3]


def test_each_commit_leaves_a_note_of_its_weights(disk: Disk) -> None:
    disk.commit(1, 3)

    notes = disk.checkpoints.folder.committed()

    assert [(note["step"], note["inbox_position"]) for note in notes] == [(1, "1-0"), (3, "3-0")]
    assert notes[0]["actor"] == weights.digest(stored_tensors(disk.trainer.policy.network))
    assert notes[0]["critic"] == weights.digest(stored_tensors(disk.trainer.value_model.network))


def test_a_process_that_has_lost_the_run_commits_nothing(disk: Disk) -> None:
    def lost() -> None:
        raise PermissionError("another learner")

    disk.commit(1)
    disk.checkpoints = Checkpoints(disk.folder, keep=2, require_right=lost)

    with pytest.raises(PermissionError):
        disk.commit(2)

    assert (disk.steps(), disk.usable_step()) == ([1], 1)


def test_a_checkpoint_larger_than_the_free_space_is_one_sentence_and_nothing_is_written(disk: Disk) -> None:
    disk.commit(1)
    num_bytes = disk.state(2).num_bytes
    disk.checkpoints = Checkpoints(disk.folder, keep=2, free_bytes=lambda _: num_bytes - 1)

    with pytest.raises(
        OSError, match=r"checkpoints has .* GB free; expected .* GB for the next checkpoint, beside the 2"
    ):
        disk.commit(2)

    assert (disk.steps(), disk.usable_step()) == ([1], 1)
    assert not list(disk.folder.glob(".*"))


def test_a_checkpoint_holds_weights_and_two_moments_of_both_models_and_nothing_else_of_their_size(disk: Disk) -> None:
    for optimization in (disk.trainer.actor, disk.trainer.critic):
        for parameter in optimization.adamw.param_groups[0]["params"]:
            parameter.grad = torch.ones_like(parameter)
        optimization.update()
    state = disk.state(1)
    networks = (disk.trainer.policy.network, disk.trainer.value_model.network)
    num_weights = sum(tensor.numel() for network in networks for tensor in stored_tensors(network).values())
    num_counters = sum(name.endswith(".step") for name in state.trainer.rest.tensors)  # of each optimizer, per tensor

    # Of each model a float32 per parameter, and two moments of it: 12 bytes.
    assert state.num_bytes == 12 * num_weights + 4 * num_counters


def test_a_digest_of_another_algorithm_is_verified_with_its_own(disk: Disk) -> None:
    disk.commit(1)
    path = disk.folder / "global_step_1" / "manifest.json"
    manifest = json.loads(path.read_text())
    ledger = disk.folder / "global_step_1" / "ledger.json"
    manifest["files"]["ledger.json"][1] = file_digest(ledger, "sha256")
    path.write_text(json.dumps(manifest))

    assert disk.usable_step() == 1


def test_a_digest_that_cannot_be_verified_here_is_refused_and_damages_nothing(disk: Disk) -> None:
    disk.commit(1, 2)
    path = disk.folder / "global_step_2" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["files"]["ledger.json"][1] = "md5:0cc175b9"
    path.write_text(json.dumps(manifest))

    with pytest.raises(
        UnknownAlgorithmError, match="cannot be verified: digest 'md5:0cc175b9'; expected one that begins"
    ):
        disk.usable_step()

    assert disk.steps() == [1, 2]


def test_a_checkpoint_of_an_earlier_version_is_refused_and_stays_as_it_is(disk: Disk) -> None:
    disk.commit(1, 2)
    folder = disk.folder / "global_step_2"
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"] = {name: [size, digest.partition(":")[2]] for name, (size, digest) in manifest["files"].items()}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "optimizers.pt").write_bytes(b"PK")

    with pytest.raises(UnknownAlgorithmError, match="names no algorithm, as those of earlier versions"):
        disk.usable_step()

    assert disk.steps() == [1, 2]


@pytest.mark.parametrize("name", ["actor/pytorch_model.bin", "optimizers.pt", "critic/model.pkl"])
def test_a_checkpoint_that_somebody_has_put_a_pickle_into_is_not_loaded(
    disk: Disk, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    disk.commit(1, 2)
    (disk.folder / "global_step_2" / name).write_bytes(b"\x80\x04.")

    assert disk.usable_step() == 1
    assert f"{name} is none of a checkpoint's files: it may be a pickle" in caplog.text


def test_no_file_of_a_checkpoint_is_a_pickle_or_an_archive(disk: Disk) -> None:
    disk.commit(1)

    files = [path for path in (disk.folder / "global_step_1").rglob("*") if path.is_file()]

    assert {path.suffix for path in files} == {".json", ".safetensors"}
    assert all(path.read_bytes()[:1] != b"\x80" for path in files)
    assert all(path.read_bytes()[:2] != b"PK" for path in files)
