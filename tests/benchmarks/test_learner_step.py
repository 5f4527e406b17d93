"""The parts of a training step add up, whatever calls what."""

import time

import pytest
import torch

from benchmarks.learner import tails
from benchmarks.learner.step_parts import REST, Parts, by_kind, operations


def work(seconds: float) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def test_a_part_has_its_time_without_that_of_the_parts_within_it() -> None:
    parts = Parts()

    with parts.timed("outer"):
        work(0.02)
        with parts.timed("inner"):
            work(0.05)

    assert parts.seconds["inner"] >= 0.05
    assert 0.02 <= parts.seconds["outer"] < 0.05


def test_kinds_of_operations_add_up_to_the_whole() -> None:
    shares = by_kind({"aten::mm": 60.0, "_AttentionBackward": 25.0, "aten::copy_": 15.0})

    assert (shares["matrix products"], shares["attention"], shares[REST]) == pytest.approx((0.6, 0.25, 0.15))
    assert sum(shares.values()) == pytest.approx(1.0)


def test_operations_are_those_of_what_runs() -> None:
    product, found = operations(lambda: torch.ones(3, 4) @ torch.ones(4, 2))

    assert product.shape == (3, 2)
    assert "aten::mm" in found


def test_rows_of_the_tails_are_alike_for_a_seed_and_few_of_them_are_long() -> None:
    lengths, again = ([row.length for row in tails.heavy_tailed_rows(1)] for _ in range(2))

    assert lengths == again
    assert len(lengths) == tails.NUM_ROWS
    assert max(lengths) > 4 * sorted(lengths)[len(lengths) // 2]
