"""Names in a run's folder."""

from pathlib import Path

import pytest

from tppo.run_folder.paths import RunPaths, run_path, trace_files, trace_path


def test_a_run_is_given_by_its_path_or_by_its_name_under_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "mine").mkdir(parents=True)

    assert run_path("mine") == Path("runs/mine")
    assert run_path("runs/mine") == Path("runs/mine")
    assert run_path("unknown") == Path("unknown")


def test_a_run_is_stopped_while_its_mark_exists(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path)
    assert not paths.is_stopped()

    paths.stopped_mark.touch()
    assert paths.is_stopped()


def test_traces_are_found_by_their_step_and_other_files_are_not(tmp_path: Path) -> None:
    for step in (11, 2):
        trace_path(tmp_path, step).touch()
    for name in ("step_x.parquet", ".step_000003.parquet.writing", "step_4.txt"):
        (tmp_path / name).touch()

    assert list(trace_files(tmp_path).items()) == [
        (2, tmp_path / "step_000002.parquet"),
        (11, tmp_path / "step_000011.parquet"),
    ]
    assert trace_files(tmp_path / "missing") == {}
