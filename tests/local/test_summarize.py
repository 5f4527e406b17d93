"""A run whose processes were started one by one gets the files that `tppo run` writes."""

import json
from pathlib import Path

import pytest

from tests.support.processes import QUICKSTART
from tppo.__main__ import main
from tppo.run_folder.ending import EndingKind, ending_of
from tppo.run_folder.paths import RunPaths

STEP = {
    "kind": "step",
    "seconds_since_start": 3.0,
    "reward/mean": 0.5,
    "response_length/mean": 7.0,
    "policy_lag/mean": 0.0,
    "timing_s/train": 0.25,
    "tokens/trained": 70,
    "windows/in_flight": 2,
    "generation/num_tokens": 40,
    "generation/seconds_busy": 1.5,
    "generation/num_decode_steps": 10,
    "generation/num_active_slot_steps": 15,
    "generation/num_slot_steps": 20,
}
ENDED = {"kind": "event", "event": "end", "step": 2, "text": "all steps are done"}


@pytest.fixture
def paths(tmp_path: Path) -> RunPaths:
    paths = RunPaths(tmp_path / "quickstart")
    paths.folder.mkdir()
    evaluations = [{"kind": "evaluation", "step": step, "eval/accuracy": 0.1 * step} for step in (0, 2)]
    lines = [{**STEP, "step": 1}, {**STEP, "step": 2}, *evaluations]
    paths.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return paths


def journal(paths: RunPaths, *lines: object) -> None:
    paths.journal.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_a_finished_run_is_summarized_from_its_folder(paths: RunPaths) -> None:
    journal(paths, {"kind": "event", "event": "start", "step": 0}, {**ENDED, "is_complete": True})

    assert main(["summarize", str(paths.folder)]) == 0

    summary = json.loads(paths.summary.read_text())
    assert summary["ending"] == "finished"
    assert (summary["steps"], summary["final_accuracy"], summary["base_accuracy"]) == (2, 0.2, 0.0)
    assert (summary["seconds_training"], summary["tokens_generated"], summary["slot_occupancy"]) == (0.5, 40, 0.75)
    assert paths.learning_curve.read_bytes().startswith(b"\x89PNG")
    ending = ending_of(paths)
    assert ending is not None
    assert ending.kind is EndingKind.FINISHED


@pytest.mark.parametrize(
    "last",
    [{**ENDED, "is_complete": False}, {"kind": "event", "event": "start", "step": 2}],
    ids=["stopped", "restarted"],
)
def test_a_run_that_may_go_on_has_not_ended(paths: RunPaths, last: dict[str, object]) -> None:
    journal(paths, {**ENDED, "is_complete": True}, last)

    assert main(["summarize", str(paths.folder)]) == 0

    assert json.loads(paths.summary.read_text())["ending"] == "running"
    assert ending_of(paths) is None


def test_a_run_is_followed_to_its_end_by_its_configuration(paths: RunPaths) -> None:
    journal(paths, {**ENDED, "is_complete": True})

    exit_code = main(["summarize", str(QUICKSTART), "--follow", f"--set=run.directory={paths.folder.parent}"])

    assert exit_code == 0
    assert json.loads(paths.summary.read_text())["ending"] == "finished"


def test_a_folder_without_a_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["summarize", str(tmp_path)]) == 2
    assert "holds no metrics.jsonl; expected the folder of a run" in capsys.readouterr().err
