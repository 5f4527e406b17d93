"""The roofline's ways are compared turn by turn, so that a machine whose speed changes meets them alike."""

from collections.abc import Sequence
from itertools import count
from pathlib import Path

import pytest

from benchmarks.generation import roofline
from benchmarks.results import Lines, Section

SLOWNESS = (1.0, 3.0, 1.0, 1.5, 1.0)  # of the machine in each turn
SECONDS = dict(zip(roofline.WAYS, (8.0, 4.0, 2.0, 1.0), strict=True))


@pytest.fixture
def section(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Section:
    """Measured on a machine whose speed changes from turn to turn."""
    turns = {name: count() for name in ("limits", *roofline.WAYS)}

    async def measured(lengths: Sequence[int], way: str) -> Section:
        seconds = SECONDS[way] * SLOWNESS[next(turns[way])]
        return {"tokens": sum(lengths), "steps": 10, "seconds": seconds, "cpu_seconds": seconds, "prefilled": 0}

    def limits(working_set: float) -> Section:
        slow = SLOWNESS[next(turns["limits"])]
        return {"operations": 6e10 / slow, "memory": 6e9 / slow, "cache": 3e10 / slow, "working_set": working_set}

    monkeypatch.setattr(roofline, "measured", measured)
    monkeypatch.setattr(roofline, "machine_limits", limits)
    return roofline.measure([20] * 40, tmp_path)


def test_a_ratio_is_that_within_a_turn(section: Section) -> None:
    assert {way: numbers["ratios"] for way, numbers in section["ways"].items()} == {
        way: [pytest.approx(factor)] * 5 for way, factor in zip(roofline.WAYS, (1.0, 2.0, 4.0, 8.0), strict=True)
    }


@pytest.mark.usefixtures("section")
def test_every_other_turn_runs_backwards(tmp_path: Path) -> None:
    names = [key.partition(": ")[2] for key in Lines(tmp_path / "roofline.jsonl").read()]
    first, second = names[:5], names[5:10]
    assert first == ["limits", *roofline.WAYS]
    assert second == first[::-1]


def test_of_each_way_and_limit_the_median_turn_counts(section: Section) -> None:
    assert {way: numbers["seconds"] for way, numbers in section["ways"].items()} == SECONDS
    assert section["limits"]["operations"] == 6e10


def test_the_table_shows_the_spread(section: Section) -> None:
    section["ways"]["PPO, slots refilled at once"]["ratios"] = [1.5, 2.0, 1.75, 2.5, 1.0]
    assert "| 1.75 (1.00 to 2.50) |" in roofline.measured_table(section)
    assert "Medians of 5 turns" in roofline.limits_text(section)
