"""`metrics.jsonl` over the lives of a learner."""

import json
from pathlib import Path

from learner.reporting.metrics_log import MetricsLog


def a_line(kind: str, step: int, life: int) -> dict[str, object]:
    return {"kind": kind, "step": step, "life": life}


def written(path: Path) -> list[tuple[str, int, int]]:
    lines = map(json.loads, path.read_text().splitlines())
    return [(line["kind"], line["step"], line["life"]) for line in lines]


def test_a_resumed_run_drops_what_came_after_its_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    first = MetricsLog(path, through_step=0)
    for step in (1, 2, 3):
        first.append(a_line("step", step, 1))

    MetricsLog(path, through_step=2).append(a_line("step", 3, 2))

    assert written(path) == [("step", 1, 1), ("step", 2, 1), ("step", 3, 2)]


def test_an_evaluation_that_ends_again_in_the_next_life_stands_there_once(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    first = MetricsLog(path, through_step=0)
    for line in (a_line("step", 2, 1), a_line("evaluation", 2, 1)):
        first.append(line)

    second = MetricsLog(path, through_step=2)
    for line in (a_line("evaluation", 2, 2), a_line("step", 3, 2), a_line("evaluation", 3, 2)):
        second.append(line)

    assert written(path) == [("step", 2, 1), ("evaluation", 2, 1), ("step", 3, 2), ("evaluation", 3, 2)]
