"""Recorded steps have their turn in each checkout, and the parts of a step add up, whatever calls what."""

import time
from pathlib import Path

import pytest
import torch

from benchmarks.learner import step, tails
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


def test_each_checkout_replays_the_same_steps() -> None:
    replays = step.measured_in_turn([step.ROOT, step.ROOT], step.NUM_WARM_UP + 2)

    assert [len(costs) for costs in replays] == [2, 2]
    assert all(cost.cpu > 0 and cost.wall > 0 for costs in replays for cost in costs)


def test_what_ends_a_replay_early_is_reported(tmp_path: Path) -> None:
    (tmp_path / "learner").mkdir()
    (tmp_path / "learner" / "__init__.py").write_text("raise RuntimeError('no such model')")

    with pytest.raises(SystemExit, match=f"(?s){tmp_path}: .*no such model"):
        step.measured_in_turn([step.ROOT, tmp_path], 1)


def test_a_folder_without_a_learner_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        step.main(["--beside", str(tmp_path)])

    assert f"{tmp_path} has no folder learner/; expected a checkout" in capsys.readouterr().err


def test_of_each_step_counts_the_median_of_its_replays() -> None:
    replays = [[step.Cost(cpu, 2 * cpu) for cpu in of_steps] for of_steps in ([1.0, 5.0], [9.0, 3.0], [2.0, 4.0])]

    assert step._median_of_steps(replays) == step.Cost(3.0, 6.0)


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
