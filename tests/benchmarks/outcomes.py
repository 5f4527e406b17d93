"""Timed runs that nobody ran."""

from typing import Any

from benchmarks.studies.timed_runs import Outcome


def an_outcome(**fields: Any) -> Outcome:
    usual: dict[str, Any] = {
        "variant": "PPO lockstep",
        "seed": 101,
        "steps": 3,
        "overrides": (),
        "num_threads": 1,
        "seconds_of_machine": 9.0,
        "clock": (1.0, 2.0, 4.0),
        "responses": (32, 64, 96),
        "exact": ((0, 0.4), (3, 0.9)),
        "cpu_seconds": {"learner": 2.0, "generation": 3.0},
        "memory_mb": {"learner": 300.0, "generation": 250.0},
        "tokens": 6000,
        "decode_steps": 900,
        "slot_occupancy": 0.2,
        "window_tokens": 5000,
        "read_tokens": 5500,
        "token_lag": 1.0,
        "largest_token_lag": 3,
        "first_trained_seconds": 2.0,
    }
    return Outcome(**{**usual, **fields})
