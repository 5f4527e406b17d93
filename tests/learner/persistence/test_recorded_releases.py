"""Runs that earlier releases have written are read by this one: `releases/` has one of each format."""

import json
import shutil
from pathlib import Path

import pytest

from learner.persistence.archive import InboxArchive, archived_records_reader
from learner.persistence.checkpoint import Checkpoints
from learner.persistence.manifest import FORMAT, NewerFormatError, described
from tests.learner.fake_services import FakeTransport
from tests.learner.laboratory import STEPS, Laboratory, SealedStreams, to_the_end
from tests.learner.persistence.recorded_release import MODE
from tppo.rollout import Score, Window
from tppo.run_folder.paths import RunPaths
from tppo.security.envelope import FORMAT as FORMAT_OF_RECORDS
from tppo.security.envelope import SealedRecords
from tppo.streams.contract import BEGINNING

RELEASES = sorted((Path(__file__).parent / "releases").iterdir())
every_release = pytest.mark.parametrize("release", RELEASES, ids=lambda path: path.name)


def copied(release: Path, folder: Path) -> Path:
    """The run there; who opens its archive may cut off a torn end, and who reads its secret wants it closed."""
    shutil.copytree(release, folder)
    RunPaths(folder).record_secret.chmod(0o600)
    return folder


def manifest(checkpoint: Path) -> Path:
    return checkpoint / "manifest.json"


def test_the_formats_that_are_written_have_a_recorded_run() -> None:
    assert f"checkpoint_{FORMAT}_records_{FORMAT_OF_RECORDS}" in {path.name for path in RELEASES}


@every_release
async def test_a_run_of_that_release_is_resumed_behind_its_checkpoint_and_comes_to_its_end(
    release: Path, tmp_path: Path
) -> None:
    run = copied(release, tmp_path / "run")
    records = archived_records_reader(run)
    assert isinstance(records, SealedRecords)
    laboratory, streams, transport = (
        Laboratory(tmp_path, MODE, records=records),
        SealedStreams(records),
        FakeTransport(),
    )
    streams.forge([entry.payload for entry in InboxArchive(run / "inbox").entries(BEGINNING)])

    service = laboratory.learner("run", streams, transport)
    resumed_at = service.step
    await to_the_end(service, streams, transport)

    steps = [line for line in laboratory.lines("run") if line["kind"] == "step"]
    assert resumed_at == 2
    assert [line["step"] for line in steps] == list(range(1, STEPS + 1))
    assert steps[-1]["ledger/issued"] == steps[-1]["ledger/trained"] == STEPS * 6


@every_release
def test_each_archived_record_of_that_release_has_its_meaning(release: Path, tmp_path: Path) -> None:
    run = copied(release, tmp_path / "run")
    reader = archived_records_reader(run)

    records = [reader.record(entry.payload) for entry in InboxArchive(run / "inbox").entries(BEGINNING)]

    assert {type(record) for record in records} == {Window, Score}
    windows = [record for record in records if isinstance(record, Window) and not record.rollout_id.startswith("eval")]
    assert len({(window.rollout_id, window.window_index) for window in windows}) == len(windows) >= 3 * 6


def test_a_checkpoint_of_a_later_release_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    shutil.copytree(RELEASES[-1] / "checkpoints", tmp_path / "checkpoints")
    (checkpoint,) = (tmp_path / "checkpoints").glob("global_step_*")
    content = json.loads(manifest(checkpoint).read_text())
    manifest(checkpoint).write_text(json.dumps({**content, "format": FORMAT + 1}))

    with pytest.raises(NewerFormatError, match=f"format {FORMAT + 1}, of a later release; expected format {FORMAT} or"):
        Checkpoints(tmp_path / "checkpoints", keep=1).usable()

    assert checkpoint.is_dir()


def test_a_checkpoint_of_a_release_without_formats_is_read(tmp_path: Path) -> None:
    shutil.copytree(RELEASES[0] / "checkpoints", tmp_path / "checkpoints")
    (checkpoint,) = (tmp_path / "checkpoints").glob("global_step_*")
    content = json.loads(manifest(checkpoint).read_text())
    manifest(checkpoint).write_text(json.dumps({"files": content["files"]}))

    assert "progress.json" in described(checkpoint)
    assert Checkpoints(tmp_path / "checkpoints", keep=1).usable() == checkpoint
