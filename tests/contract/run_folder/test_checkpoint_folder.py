"""Finding a run's checkpoints."""

import json
from pathlib import Path

import pytest

from tests.support.damage import DAMAGES, damage
from tppo.run_folder.checkpoints import BestCheckpoint, CheckpointFolder, manifest_of, replaced, step_of
from tppo.run_folder.json_files import write_object


@pytest.fixture
def folder(tmp_path: Path) -> CheckpointFolder:
    return CheckpointFolder(tmp_path / "checkpoints")


def write(folder: CheckpointFolder, *steps: int) -> None:
    for step in steps:
        folder.of_step(step).mkdir(parents=True)
        (folder.of_step(step) / "manifest.json").write_text('{"files": {"actor/config.json": [2, "ab"]}}')


def test_a_run_without_checkpoints_has_no_newest(folder: CheckpointFolder) -> None:
    assert (folder.newest(), folder.newest_step(), folder.kept_steps(), folder.best()) == (None, None, [], None)
    assert folder.committed() == []


def test_the_newest_checkpoint_is_the_one_that_latest_names(folder: CheckpointFolder) -> None:
    write(folder, 5, 10, 20)
    folder.latest.write_text("global_step_10\n")

    assert (folder.newest(), folder.newest_step()) == (folder.path / "global_step_10", 10)


def test_a_complete_checkpoint_behind_the_one_that_latest_names_is_not_committed(folder: CheckpointFolder) -> None:
    write(folder, 5, 10)
    folder.latest.write_text("global_step_5")

    assert folder.newest_step() == 5


@pytest.mark.parametrize(
    "content",
    [None, b"", b"\0\0\0", b"global_step_", b"../elsewhere", b"\xff\xfe", b"global_step_99", b"{}", b"x" * 10_000],
)
def test_without_a_usable_latest_the_newest_complete_checkpoint_is_found(
    folder: CheckpointFolder, content: bytes | None
) -> None:
    write(folder, 5, 10)
    folder.of_step(20).mkdir()
    if content is not None:
        folder.latest.write_bytes(content)

    assert folder.newest_step() == 10


def test_a_checkpoint_that_is_being_replaced_is_still_the_newest(folder: CheckpointFolder) -> None:
    write(folder, 5, 10)
    folder.latest.write_text("global_step_10")
    folder.of_step(10).rename(replaced(folder.of_step(10)))

    assert folder.newest_step() == 10


def test_half_written_and_damaged_checkpoints_are_not_kept_ones(folder: CheckpointFolder) -> None:
    write(folder, 100, 20)
    for name in (".global_step_30.writing", "damaged_global_step_40", "global_step_x", "global_step_5.backup"):
        (folder.path / name).mkdir()
    folder.of_step(7).mkdir()

    assert folder.kept_steps() == [7, 20, 100]
    assert folder.complete_steps() == [20, 100]


BEST = {"step": 5, "accuracy": 0.75, "measure": "eval/accuracy"}


def test_the_best_checkpoint_is_read_from_its_record(folder: CheckpointFolder) -> None:
    write(folder, 5)
    write_object(folder.best_record, BEST)

    assert folder.best() == BestCheckpoint(step=5, accuracy=0.75, measure="eval/accuracy")


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_record_names_no_best_checkpoint(folder: CheckpointFolder, kind: str) -> None:
    write(folder, 5)
    write_object(folder.best_record, BEST)
    damage(folder.best_record, kind)

    assert folder.best() is None


def test_a_best_checkpoint_that_is_gone_is_none(folder: CheckpointFolder) -> None:
    write(folder, 10)
    write_object(folder.best_record, BEST)

    assert folder.best() is None


def test_committed_checkpoints_are_listed_in_order_without_torn_and_foreign_lines(folder: CheckpointFolder) -> None:
    folder.path.mkdir()
    notes = [{"step": step, "inbox_position": "1-0", "actor": "ab", "critic": "cd"} for step in (5, 10)]
    lines = [json.dumps(note) for note in notes]
    folder.committed_log.write_text("\n".join([lines[0], "{}", '{"step": "x"}', "[]", lines[1], '{"st']))

    assert folder.committed() == notes


def test_a_step_is_read_from_a_checkpoints_name(folder: CheckpointFolder) -> None:
    assert step_of(folder.of_step(12)) == 12
    with pytest.raises(ValueError, match="expected global_step_N"):
        step_of(folder.path / "actor")


def test_a_manifest_that_is_missing_or_unreadable_is_empty(folder: CheckpointFolder) -> None:
    write(folder, 5)
    assert manifest_of(folder.of_step(5)) == {"files": {"actor/config.json": [2, "ab"]}}

    (folder.of_step(5) / "manifest.json").write_bytes(b"\xff")
    assert manifest_of(folder.of_step(5)) == {}
    assert manifest_of(folder.of_step(6)) == {}
