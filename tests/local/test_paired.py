"""Differences between paired runs, against numbers from a table of Student's t."""

import pytest

from services.local.compare.paired import holm, paired_difference


def test_a_difference_comes_with_the_interval_of_students_t() -> None:
    found = paired_difference([1.1, 2.3, 3.2, 4.2, 5.2], [1.0, 2.0, 3.0, 4.0, 5.0])

    # pairs .1 .3 .2 .2 .2: mean .2, deviation sqrt(.02/4), t(0.975, 4) = 2.776
    assert found.mean == pytest.approx(0.2)
    assert found.margin == pytest.approx(2.7764 * (0.02 / 4) ** 0.5 / 5**0.5, rel=1e-4)
    assert found.p_value == pytest.approx(0.0031, abs=2e-4)  # t = 6.32


def test_pairs_that_all_differ_alike_leave_no_doubt() -> None:
    assert paired_difference([2.0, 3.0], [1.0, 2.0]).p_value == 0.0
    assert paired_difference([1.0, 2.0], [1.0, 2.0]).p_value == 1.0


def test_one_pair_is_refused() -> None:
    with pytest.raises(ValueError, match="1 pairs; expected two or more"):
        paired_difference([1.0], [2.0])


def test_holm_multiplies_the_smallest_p_by_the_number_of_comparisons_and_never_reorders() -> None:
    assert holm([0.01, 0.04, 0.03, 0.9]) == pytest.approx([0.04, 0.09, 0.09, 0.9])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
