"""Small files of a run that a crash or a foreign program has damaged: the run goes on, or says what is wrong."""

import asyncio
import json
import shutil
from pathlib import Path

import pytest

from learner.persistence import rollback
from learner.persistence.checkpoint import Checkpoints
from learner.persistence.manifest import DamagedError, verify
from learner.persistence.run_identity import begin_incarnation, next_incarnation
from learner.reporting.metrics_log import MetricsLog
from learner.service import LearnerService
from tests.learner.fake_services import FakeTransport
from tests.learner.laboratory import STEPS, ArchivedStreams, Laboratory, step_reached, to_the_end
from tests.support.damage import DAMAGES, damage
from tppo.config import ConfigError
from tppo.run_folder.checkpoints import CheckpointFolder
from tppo.run_folder.json_files import write_object
from tppo.run_folder.metric_lines import ACCURACY, MeasuredAccuracy
from tppo.run_folder.paths import RunPaths


async def stopped_at(step: int, service: LearnerService, streams: ArchivedStreams, transport: FakeTransport) -> None:
    async def stop_there() -> None:
        await step_reached(service, step)
        service.stop()

    await asyncio.gather(to_the_end(service, streams, transport), stop_there())


@pytest.mark.parametrize("kind", ["empty", "garbage"])
@pytest.mark.parametrize(
    "name", ["identity.json", "metrics.jsonl", "journal.jsonl", "checkpoints/latest", "checkpoints/committed.jsonl"]
)
async def test_a_run_resumes_beside_a_damaged_file(tmp_path: Path, name: str, kind: str) -> None:
    laboratory, streams, transport = Laboratory(tmp_path, "streaming"), ArchivedStreams(), FakeTransport()
    await stopped_at(3, laboratory.learner("run", streams, transport), streams, transport)
    folder = CheckpointFolder(RunPaths(tmp_path / "run").checkpoints)
    committed_step = folder.newest_step()
    damage(tmp_path / "run" / name, kind)

    resumed = laboratory.learner("run", streams, transport)
    resumed_at = resumed.step
    await to_the_end(resumed, streams, transport)

    assert resumed_at == committed_step != 0
    assert (resumed.step, folder.newest_step()) == (STEPS, STEPS)
    steps = [line["step"] for line in laboratory.lines("run") if line["kind"] == "step"]
    assert steps[-(STEPS - resumed_at) :] == list(range(resumed_at + 1, STEPS + 1))
    assert next_incarnation(tmp_path / "run") == 3


# identity.json


@pytest.mark.parametrize("kind", [*DAMAGES, "missing"])
def test_a_damaged_identity_is_read_from_what_the_newest_learner_has_locked(tmp_path: Path, kind: str) -> None:
    first = begin_incarnation(tmp_path, at_least=7)
    path = RunPaths(tmp_path).identity
    if kind == "missing":
        path.unlink()
    else:
        damage(path, kind)

    first.require_current()
    second = begin_incarnation(tmp_path)

    assert (second.run_id, second.incarnation) == (first.run_id, 8)
    assert json.loads(path.read_bytes()) == {"run_id": first.run_id, "incarnation": 8}


def test_when_both_are_damaged_the_name_of_the_lock_says_which_incarnation_it_was(tmp_path: Path) -> None:
    begin_incarnation(tmp_path, at_least=7)
    damage(RunPaths(tmp_path).identity, "garbage")
    damage(tmp_path / ".learner-7.lock", "empty")

    assert begin_incarnation(tmp_path).incarnation == 8


# metrics.jsonl


def test_foreign_lines_of_the_metrics_are_left_out_at_a_resume(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    own = [{"kind": "step", "step": 1}, {"kind": "evaluation", "step": 1, "eval/accuracy": 0.5}]
    foreign = [b"{}", b'{"kind": "step"}', b'{"kind": "step", "step": "1"}', b"[]", b"\xff\xfe", b'{"kind": "st']
    path.write_bytes(b"\n".join([*foreign[:3], *(json.dumps(line).encode() for line in own), *foreign[3:]]))

    MetricsLog(path, through_step=1)

    assert [json.loads(line) for line in path.read_text().splitlines()] == own


# manifest.json


@pytest.mark.parametrize("kind", [*DAMAGES, "facts of another type"])
def test_a_checkpoint_with_a_damaged_manifest_is_damaged(tmp_path: Path, kind: str) -> None:
    (tmp_path / "ledger.json").write_text("{}")
    write_object(tmp_path / "manifest.json", {"files": {"ledger.json": [2, "ab"]}})
    if kind in DAMAGES:
        damage(tmp_path / "manifest.json", kind)
    else:
        write_object(tmp_path / "manifest.json", {"files": {"ledger.json": "ab"}})

    with pytest.raises(DamagedError, match=r"has no readable manifest\.json \("):
        verify(tmp_path)


# best.json


def committed(folder: Path, *steps: int) -> Checkpoints:
    for step in steps:
        (folder / f"global_step_{step}").mkdir(parents=True)
        write_object(folder / f"global_step_{step}" / "manifest.json", {"files": {}})
    return Checkpoints(folder, keep=2)


@pytest.mark.parametrize("kind", [*DAMAGES, "missing"])
def test_a_damaged_record_of_the_best_is_written_again_from_the_evaluations(tmp_path: Path, kind: str) -> None:
    checkpoints = committed(tmp_path, 2, 4, 6)
    checkpoints.keep_if_best(4, MeasuredAccuracy(ACCURACY, 0.75))
    if kind == "missing":
        checkpoints.folder.best_record.unlink()
    else:
        damage(checkpoints.folder.best_record, kind)
    accuracies = {0: 0.99, 2: 0.5, 3: 0.9, 4: 0.75, 6: 0.7}

    checkpoints.restore_best(
        {"kind": "evaluation", "step": step, "eval/accuracy": accuracy} for step, accuracy in accuracies.items()
    )

    best = checkpoints.folder.best()
    assert best is not None
    assert (best.step, best.accuracy, best.measure) == (4, 0.75, "eval/accuracy")  # steps 0 and 3 have no checkpoint


def test_a_whole_record_of_the_best_is_left_as_it_is(tmp_path: Path) -> None:
    checkpoints = committed(tmp_path, 2, 4)
    checkpoints.keep_if_best(2, MeasuredAccuracy(ACCURACY, 0.75))

    checkpoints.restore_best([{"kind": "evaluation", "step": 4, "eval/accuracy": 0.9}])

    best = checkpoints.folder.best()
    assert best is not None
    assert best.step == 2


# Rollback


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_request_for_a_rollback_is_refused_once(tmp_path: Path, kind: str) -> None:
    rollback.request(tmp_path, 2)
    path = tmp_path / "rollback_requested.json"
    damage(path, kind)

    with pytest.raises(ConfigError, match=r"rollback_requested\.json: .*; nothing is rolled back: request it again"):
        rollback.apply_requested(tmp_path, 3)

    assert not path.exists()
    rollback.apply_requested(tmp_path, 3)


async def test_foreign_notes_of_commits_do_not_keep_a_run_from_being_rolled_back(tmp_path: Path) -> None:
    laboratory, streams, transport = Laboratory(tmp_path, "lockstep"), ArchivedStreams(), FakeTransport()
    await to_the_end(laboratory.learner("run", streams, transport), streams, transport)
    folder = CheckpointFolder(RunPaths(tmp_path / "run").checkpoints)
    with folder.committed_log.open("ab") as log:
        log.write(b'{}\n{"step": "x"}\n\xff\n{"st')
    shutil.rmtree(tmp_path / "base")

    rollback._apply(tmp_path / "run", 2, incarnation=2)

    assert [note["step"] for note in folder.committed()] == [2]
    assert folder.newest_step() == 2
