"""The long run and the stand-ins: which steps are compared, and what the tables say."""

from benchmarks.studies import steady
from benchmarks.system import stand_ins


def test_early_steps_are_compared_with_those_up_to_a_thousand_and_the_last() -> None:
    assert steady.firsts(1500) == [10, 900, 1400]
    assert steady.firsts(24) == [6, 18]


def test_time_and_memory_are_held_against_the_early_steps() -> None:
    def a_span(first: int, training: float, learner: float) -> dict[str, object]:
        numbers = {"training_us_of_token": training, "tokens": 3000, "beside_ms": 2.0}
        return {"first": first, "last": first + 99, "memory_mb": {"learner": learner, "redis": 10.0}, **numbers}

    table = steady.tables({"spans": [a_span(11, 20.0, 300.0), a_span(1401, 21.0, 303.0)]})["steady"]

    assert "| in brackets: to steps 11 to 110 | steps 11 to 110 | steps 1401 to 1500 |" in table
    assert "| training, microseconds a token | 20.0 (1.00) | 21.0 (1.05) |" in table
    assert "| memory of learner, MB | 300 (1.00) | 303 (1.01) |" in table


def test_cores_and_memory_of_the_control_plane_add_up() -> None:
    section = {
        **{"rows": 100, "window": 8192, "generators": 4, "factor": 1.0, "steps": 2, "wall": 10.0},
        **{"cpu": {"redis": 1.0, "generators": 2.0, "learner": 3.0}},
        **{"memory": {"redis": 100.0, "generators": 200.0, "learner": 300.0}},
    }

    table = stand_ins.tables(section)["stand-ins"]

    assert "| learner | 0.30 | 15000 | 300 |" in table
    assert "| together | 0.60 | 30000 | 600 |" in table
