"""Checkpoints on the disk: committed, damaged, refused by a full disk, kept and deleted."""

from pathlib import Path

import pytest

from learner.models.loading import load_policy, value_model_from_policy
from learner.persistence.checkpoint import Capture, Checkpoints, capture
from learner.persistence.manifest import DamagedError
from learner.rollouts.ledger_state import LedgerState
from learner.state import new_trainer
from learner.step.progress import TrainingProgress
from tests.learner.test_learner_service import Laboratory, NoTokenizer
from tests.support.small_disk import files_of_at_most
from tppo import weights
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
        return capture(self.trainer, TrainingProgress(step, f"{step}-0", 0.0, 0), LedgerState({"gathered": {}}, {}))

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


def test_a_checkpoint_whose_evaluation_is_under_way_is_kept(tmp_path: Path) -> None:
    disk = Disk(tmp_path, keep=1)

    disk.commit(1)
    disk.commit(2, 3, keep_also=(1,))

    assert disk.steps() == [1, 3]


def test_each_commit_leaves_a_note_of_its_weights(disk: Disk) -> None:
    disk.commit(1, 3)

    notes = disk.checkpoints.folder.committed()

    assert [(note["step"], note["inbox_position"]) for note in notes] == [(1, "1-0"), (3, "3-0")]
    assert notes[0]["actor"] == weights.digest(disk.state(1).actor)
    assert notes[0]["critic"] == weights.digest(disk.state(1).critic)


def test_a_process_that_has_lost_the_run_commits_nothing(disk: Disk) -> None:
    def lost() -> None:
        raise PermissionError("another learner")

    disk.commit(1)
    disk.checkpoints = Checkpoints(disk.folder, keep=2, require_right=lost)

    with pytest.raises(PermissionError):
        disk.commit(2)

    assert (disk.steps(), disk.usable_step()) == ([1], 1)
