"""The history of the metrics."""

from typing import Any

import pytest

from services.dashboard.history.columns import Columns, evenly


def columns_of(*lines: dict[str, Any], max_lines: int = 100) -> Columns:
    columns = Columns(max_lines=max_lines)
    for line in lines:
        columns.add(line)
    return columns


def test_a_name_that_a_line_lacks_is_missing_there() -> None:
    columns = columns_of({"step": 1, "a": 1.5}, {"step": 2, "b": 2.5}, {"step": 3, "a": None, "b": 3.5})

    assert columns.values("a") == [1.5, None, None]
    assert columns.values("b") == [None, 2.5, 3.5]
    assert columns.values("nowhere") == [None, None, None]
    assert columns.names == ["a", "b", "step"]


@pytest.mark.parametrize("value", ["text", True, float("nan"), float("inf"), [1], 10**400])
def test_what_is_no_finite_number_is_missing(value: Any) -> None:
    assert columns_of({"step": 1, "a": 1.0}, {"step": 2, "a": value}).values("a") == [1.0, None]


def test_rows_are_thinned_evenly_and_the_last_one_stays() -> None:
    columns = columns_of(*({"step": step} for step in range(1, 12)))

    assert columns.values("step", columns.rows(max_points=3)) == [1, 6, 11]
    assert columns.values("step", columns.rows(from_step=9, max_points=100)) == [9, 10, 11]
    assert columns.values("step", columns.rows(max_points=1)) == [11]


def test_thinning_keeps_what_is_few_already() -> None:
    assert list(evenly([5, 6], 2)) == [5, 6]


def test_a_long_history_is_kept_at_half_the_resolution() -> None:
    columns = columns_of(*({"step": step} for step in range(1, 7)), max_lines=5)

    assert columns.values("step") == [2, 4, 6]
    assert columns.num_lines == 3


def test_an_evaluation_that_ends_after_a_later_one_stands_before_it() -> None:
    lines = [{"step": 0, "a": 0.1}, {"step": 40, "a": 0.4}, {"step": 20, "a": 0.2, "b": 7}]
    columns = columns_of(*lines)

    assert columns.values("step") == [0, 20, 40]
    assert columns.values("a") == [0.1, 0.2, 0.4]
    assert columns.values("b") == [None, 7, None]
    assert columns.latest == lines[1]
