"""The control plane without a model: that it trains what it says, and that its table has a column for each size."""

from typing import Any

import pytest

from benchmarks.learner.control_plane import PARTS, control_plane
from benchmarks.learner.growth import (
    LARGE,
    LARGE_SINGLY,
    LOCKSTEP,
    SMALL,
    cost,
    cost_table,
    inbox,
    memory,
    parts,
    steady,
    tables,
)
from learner.rollouts.rollout import Rollout


@pytest.mark.parametrize(
    ("mode", "num_rows", "num_in_flight"),
    [("streaming", 5, 20), ("streaming", 10, 20), ("streaming", 2, 80), ("lockstep", 20, 20)],
)
def test_every_window_of_a_step_is_answered_and_trained(mode: str, num_rows: int, num_in_flight: int) -> None:
    plane = control_plane(num_in_flight=num_in_flight, mode=mode, num_rows=num_rows)

    for _ in range(6):
        plane.step(read_count=3)

    assert plane.num_windows == plane.manager.ledger.num_trained == 6 * num_rows
    assert plane.manager.ledger.conservation().in_flight == num_in_flight


class Unscanned(dict[str, Rollout]):
    """Rollouts of which each may be looked up, and nobody looks at all."""

    def values(self) -> Any:
        raise AssertionError("all rollouts in flight were looked at")

    def __iter__(self) -> Any:
        raise AssertionError("all rollouts in flight were looked at")

    items = keys = values


@pytest.mark.parametrize(("mode", "num_rows"), [("streaming", 10), ("lockstep", 20)])
def test_neither_a_window_nor_a_step_looks_at_all_rollouts_in_flight(mode: str, num_rows: int) -> None:
    plane = control_plane(num_in_flight=20, mode=mode, num_rows=num_rows)
    plane.manager.ledger.rollouts = Unscanned(plane.manager.ledger.rollouts)

    for _ in range(4):
        plane.step(read_count=1)

    assert plane.num_windows == 4 * num_rows


def test_a_table_has_a_column_for_each_number_of_rollouts() -> None:
    section = {
        "parts": {
            f"{SMALL}: 10: 0": cost(num_in_flight=10, mode="streaming", num_rows=5, read_count=1),
            f"{LOCKSTEP}: 10: 0": cost(num_in_flight=10, mode="lockstep", num_rows=10, read_count=1),
            "memory: 10": memory(10),
            "inbox: 32": inbox(8192),
            "steady: 20": steady(20),
        }
    }
    for way in ("large steps, many windows a read", "large steps, one window a read"):
        section["parts"][f"{way}: 10: 0"] = section["parts"][f"{SMALL}: 10: 0"]

    found = tables(section)

    assert "10 in flight" in found["growth"]
    assert f"| {LOCKSTEP} |" in found["growth"]
    assert "first" in found["growth-memory"]


def test_a_lag_beyond_what_a_configuration_allows_is_left_out() -> None:
    keys = parts([100_000], 10)

    assert f"{SMALL}: 100000: 0" not in keys
    assert f"{LOCKSTEP}: 100000: 0" in keys


def test_a_ratio_is_that_within_a_turn() -> None:
    slowness = (1.0, 4.0, 2.0)  # of the machine in each turn
    of_sizes = {100: 10.0, 1_000: 15.0}
    section: dict[str, Any] = {"parts": {f"memory: {size}": {} for size in of_sizes}}
    for way in (LARGE, LARGE_SINGLY, SMALL, LOCKSTEP):
        for turn, slow in enumerate(slowness):
            for size, microseconds in of_sizes.items():
                numbers = dict.fromkeys(PARTS, microseconds * slow / len(PARTS))
                section["parts"][f"{way}: {size}: {turn}"] = numbers

    assert f"| {LARGE} | 20 (1.0) | 30 (1.5) |" in cost_table(section)
