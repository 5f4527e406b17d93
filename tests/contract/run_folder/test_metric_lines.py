"""Which lines of metrics.jsonl are whole, and by which accuracy evaluations are compared."""

import json
from pathlib import Path
from typing import Any

import pytest

from tppo.run_folder.metric_lines import MeasuredAccuracy, deciding_accuracy, is_metric_line, read_metric_lines


@pytest.mark.parametrize(
    "line",
    [
        {"kind": "step", "step": 3, "time": 1.5, "reward/mean": None},
        {"kind": "evaluation", "step": 0, "eval/accuracy": 0.5},
        {"kind": "end", "step": 7},
    ],
)
def test_lines_of_numbers_with_their_kind_and_step_are_taken(line: dict[str, Any]) -> None:
    assert is_metric_line(line)


@pytest.mark.parametrize(
    "line",
    [
        {},
        {"step": 3},
        {"kind": "step"},
        {"kind": "other", "step": 3},
        {"kind": ["step"], "step": 3},
        {"kind": "step", "step": "3"},
        {"kind": "step", "step": 3.5},
        {"kind": "step", "step": True},
        {"kind": "step", "step": -1},
        {"kind": "step", "step": 3, "reward/mean": "high"},
        {"kind": "step", "step": 3, "reward/mean": {"mean": 1}},
    ],
)
def test_other_objects_are_foreign(line: dict[str, Any]) -> None:
    assert not is_metric_line(line)


def test_foreign_and_torn_lines_are_left_out_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    good = {"kind": "step", "step": 1}
    path.write_bytes(b"\n".join([b"{}", b"[1]", b"\xff\xfe", json.dumps(good).encode(), b"not JSON", b'{"kind": "st']))

    assert read_metric_lines(path) == [good]


def test_the_exact_accuracy_decides_where_there_is_one() -> None:
    for sampled in (0.9, None):
        line = {"eval/accuracy": sampled, "eval/accuracy_exact": 0.7}
        assert deciding_accuracy(line) == MeasuredAccuracy("eval/accuracy_exact", 0.7)
    assert deciding_accuracy({"eval/accuracy": 0.9}) == MeasuredAccuracy("eval/accuracy", 0.9)
    assert deciding_accuracy({"eval/accuracy": None}) is None
