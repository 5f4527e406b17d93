"""The checkpoint of the best evaluation is kept, whenever evaluations and commits end."""

from pathlib import Path

import pytest

from learner.persistence.checkpoint_writer import CheckpointWriter
from learner.persistence.definition import with_values
from learner.rollouts.manager import RolloutManager
from learner.step.progress import TrainingProgress
from tests.learner.fake_services import FakeTransport
from tests.learner.laboratory import STEPS, ArchivedStreams, Laboratory, to_the_end
from tppo.run_folder.checkpoints import BestCheckpoint, CheckpointFolder
from tppo.run_folder.metric_lines import ACCURACY, EXACT_ACCURACY, MeasuredAccuracy
from tppo.run_folder.paths import RunPaths


class Disk:
    """A run's folder, and the writer of its checkpoints, which writes every second step."""

    def __init__(self, folder: Path) -> None:
        service = Laboratory(folder, "streaming").learner("run", ArchivedStreams(), FakeTransport())
        self.writer: CheckpointWriter = service._parts.checkpoints
        self.manager: RolloutManager = service._manager
        self.folder = CheckpointFolder(RunPaths(folder / "run").checkpoints)

    async def commit(self, *steps: int) -> None:
        for step in steps:
            await self.writer.commit_now(progress(step), self.manager)


def progress(step: int) -> TrainingProgress:
    return TrainingProgress(step, f"{step}-0", 0.0, 0)


def sampled(value: float) -> MeasuredAccuracy:
    return MeasuredAccuracy(ACCURACY, value)


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path)


async def test_each_evaluated_step_is_committed_and_the_best_is_kept(tmp_path: Path) -> None:
    laboratory = Laboratory(tmp_path, "lockstep")  # evaluates the steps 3 and 6
    laboratory.config = with_values(laboratory.config, {"checkpoint.save_freq": 4, "checkpoint.keep": 1})
    streams, transport = ArchivedStreams(), FakeTransport()

    await to_the_end(laboratory.learner("run", streams, transport), streams, transport)

    folder = CheckpointFolder(RunPaths(tmp_path / "run").checkpoints)
    lines = {line["step"]: line for line in laboratory.lines("run") if line["kind"] == "evaluation"}
    best_step = max((3, STEPS), key=lambda step: float(lines[step]["eval/accuracy_exact"]))
    assert {3, STEPS} <= {note["step"] for note in folder.committed()}
    assert folder.best() == BestCheckpoint(best_step, lines[best_step]["eval/accuracy_exact"], EXACT_ACCURACY)
    assert {best_step, STEPS} <= set(folder.complete_steps())


async def test_an_accuracy_is_remembered_until_its_checkpoint_is_committed(disk: Disk) -> None:
    await disk.commit(2)
    disk.writer.keep_if_best(2, sampled(0.5))
    disk.writer.keep_if_best(3, sampled(0.9))
    before = disk.folder.best()

    await disk.commit(3)

    assert (before, disk.folder.best()) == (BestCheckpoint(2, 0.5), BestCheckpoint(3, 0.9))


async def test_an_accuracy_whose_step_never_got_a_checkpoint_is_forgotten(disk: Disk) -> None:
    disk.writer.keep_if_best(0, sampled(0.99))
    disk.writer.keep_if_best(4, sampled(0.5))

    await disk.commit(4)

    assert disk.folder.best() == BestCheckpoint(4, 0.5)
    assert not disk.writer._accuracies


async def test_an_evaluation_in_which_nothing_was_measured_changes_nothing(disk: Disk) -> None:
    await disk.commit(2)
    disk.writer.keep_if_best(2, None)

    assert disk.folder.best() is None


async def test_accuracies_of_another_measure_are_not_compared(disk: Disk) -> None:
    await disk.commit(2, 4, 6)
    disk.writer.keep_if_best(2, sampled(0.9))
    disk.writer.keep_if_best(4, MeasuredAccuracy(EXACT_ACCURACY, 0.7))
    disk.writer.keep_if_best(6, MeasuredAccuracy(EXACT_ACCURACY, 0.6))

    assert disk.folder.best() == BestCheckpoint(4, 0.7, EXACT_ACCURACY)
