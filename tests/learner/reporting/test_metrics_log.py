"""`metrics.jsonl` over the restarts of a learner."""

import json
from pathlib import Path

import pytest

from learner.persistence.run_identity import begin_incarnation
from learner.reporting.metrics_log import MetricsLog
from tests.support.small_disk import files_of_at_most
from tppo.streams.fence import FencedError


def a_line(kind: str, step: int, incarnation: int) -> dict[str, object]:
    return {"kind": kind, "step": step, "incarnation": incarnation}


def written(path: Path) -> list[tuple[str, int, int]]:
    lines = map(json.loads, path.read_text().splitlines())
    return [(line["kind"], line["step"], line["incarnation"]) for line in lines]


def test_a_resumed_run_drops_what_came_after_its_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    first = MetricsLog(path, through_step=0)
    for step in (1, 2, 3):
        first.append(a_line("step", step, 1))

    MetricsLog(path, through_step=2).append(a_line("step", 3, 2))

    assert written(path) == [("step", 1, 1), ("step", 2, 1), ("step", 3, 2)]


def test_an_evaluation_that_is_repeated_after_a_restart_is_written_once(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    first = MetricsLog(path, through_step=0)
    for line in (a_line("step", 2, 1), a_line("evaluation", 2, 1)):
        first.append(line)

    second = MetricsLog(path, through_step=2)
    for line in (a_line("evaluation", 2, 2), a_line("step", 3, 2), a_line("evaluation", 3, 2)):
        second.append(line)

    assert written(path) == [("step", 2, 1), ("evaluation", 2, 1), ("step", 3, 2), ("evaluation", 3, 2)]


def test_a_process_that_has_lost_the_run_writes_no_metrics(tmp_path: Path) -> None:
    zombie = begin_incarnation(tmp_path)
    log = MetricsLog(tmp_path / "metrics.jsonl", through_step=0, require_right=zombie.require_current)
    log.append({"step": 1})
    begin_incarnation(tmp_path)

    with pytest.raises(FencedError):
        log.append({"step": 2})

    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1}\n'


def test_the_last_line_that_a_full_disk_refused_is_written_at_the_end(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl", through_step=0)
    log.append({"step": 1})

    with files_of_at_most(20):
        log.append({"step": 2})
    log.flush()

    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1}\n{"step": 2}\n'


def test_lines_that_a_full_disk_refused_are_written_later_and_none_is_cut(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl", through_step=0)
    log.append({"step": 1})

    with files_of_at_most(20):
        log.append({"step": 2})
        assert log.last_error
    whole_before = (tmp_path / "metrics.jsonl").read_text()
    log.append({"step": 3})

    assert whole_before == '{"step": 1}\n'
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1}\n{"step": 2}\n{"step": 3}\n'
    assert not log.last_error
