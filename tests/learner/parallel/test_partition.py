"""Rows are dealt to ranks by their tokens alone, and come back in their order."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from learner.models.passes.division import dealt, divided
from learner.models.passes.packing import TokenRow
from learner.parallel.group import Group


def test_the_longest_row_left_goes_to_the_rank_with_the_fewest_tokens() -> None:
    assert dealt([3, 9, 4, 4, 2], 2) == [[1, 4], [0, 2, 3]]  # 9, then 4 and 4, then 3 beside them, then 2


def test_a_group_of_more_ranks_than_rows_leaves_some_without() -> None:
    assert dealt([5, 7], 4) == [[1], [0], [], []]


@given(st.lists(st.integers(1, 100), min_size=1), st.integers(1, 8))
def test_no_rank_has_more_than_its_share_and_the_longest_row(lengths: list[int], num_ranks: int) -> None:
    shares = dealt(lengths, num_ranks)

    assert sorted(row for share in shares for row in share) == list(range(len(lengths)))
    assert max(sum(lengths[row] for row in share) for share in shares) <= sum(lengths) / num_ranks + max(lengths)


def test_every_rank_makes_as_many_passes_and_the_last_ones_may_be_empty() -> None:
    rows = [TokenRow(list(range(length)), 1) for length in (8, 3, 3, 2)]

    first, second = (divided(rows, max_tokens=4, group=Group(rank, 2)) for rank in (0, 1))

    assert [batch.row_indices for batch in first.batches] == [(0,), (), ()]
    assert [batch.row_indices for batch in second.batches] == [(1,), (2,), (3,)]
    assert first.batches[1].input_ids.tolist() == [[0]]
    assert not len(first.batches[1].target_ids)
    assert first.num_filled == second.num_filled == (1, 3)


def test_one_process_has_all_rows_and_gets_their_results_in_order() -> None:
    rows = [TokenRow([5, 6, 7], 1), TokenRow([8, 9, 10, 11], 2), TokenRow([12, 13], 1)]
    division = divided(rows, max_tokens=5, group=Group())

    found = division.of_rows([batch.target_ids.float() for batch in division.batches])

    assert [of_row.tolist() for of_row in found] == [[6, 7], [10, 11], [13]]


def test_numbers_of_rows_and_of_passes_are_gathered_alike() -> None:
    rows = [TokenRow([5, 6], 1), TokenRow([7, 8, 9, 10], 1), TokenRow([11, 12], 1)]
    division = divided(rows, max_tokens=4, group=Group())

    assert [batch.row_indices for batch in division.batches] == [(1,), (0, 2)]
    assert division.numbers_of_rows([torch.tensor([3.0]), torch.tensor([1.0, 2.0])]).tolist() == [1.0, 3.0, 2.0]
    assert division.numbers_of_passes([torch.tensor([1.0]), torch.tensor([2.0])]).tolist() == [[1.0], [2.0]]
