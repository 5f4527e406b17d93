"""Rows are dealt to ranks by their tokens alone, and come back in their order."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from learner.models.passes.division import dealt, divided
from learner.models.passes.packing import TokenRow, pack
from learner.models.passes.parts import Part
from learner.parallel.group import Group
from learner.parallel.sequence import SequenceRanks


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


def test_ranks_that_share_tokens_have_the_same_passes_and_one_of_them_gives_their_results() -> None:
    rows = [TokenRow(list(range(length)), 1) for length in (8, 3)]
    groups = [Group(rank, 4, sequence=SequenceRanks(rank % 2, 2)) for rank in range(4)]

    divisions = [divided(rows, max_tokens=8, group=group) for group in groups]

    assert [[batch.row_indices for batch in one.batches] for one in divisions] == [[(0,)], [(0,)], [(1,)], [(1,)]]
    assert divisions[0].shares == [[0], [1]]
    assert divisions[0].num_filled == (1, 1)


def test_a_line_is_cut_into_parts_of_equal_length_whose_last_one_is_filled_up() -> None:
    (line,) = pack([TokenRow([5, 6, 7, 8, 9], 1), TokenRow([10, 11], 1)], max_tokens=7)

    first, second = (Part.of(line, SequenceRanks(rank, 2)) for rank in (0, 1))

    assert first.own.input_ids.tolist() == [[5, 6, 7, 8]]
    assert second.own.input_ids.tolist() == [[9, 10, 11, 5]]
    assert second.own.position_ids.tolist() == [[4, 0, 1, 0]]
    assert first.own.row_lengths == second.own.row_lengths == (5, 2, 1)
    # The last token before the cut predicts the first one behind it.
    assert (first.own.selected_positions.tolist(), first.own.target_ids.tolist()) == ([0, 1, 2, 3], [6, 7, 8, 9])
    assert (second.own.selected_positions.tolist(), second.own.target_ids.tolist()) == ([1], [11])
    assert first.num_selected == second.num_selected == (4, 1)


def test_each_rank_has_a_token_of_a_line_of_fewer_tokens_than_ranks() -> None:
    (line,) = pack([TokenRow([5, 6], 1)], max_tokens=2)

    parts = [Part.of(line, SequenceRanks(rank, 4)) for rank in range(4)]

    assert [part.own.input_ids.tolist() for part in parts] == [[[5]], [[6]], [[5]], [[5]]]
    assert [part.own.target_ids.tolist() for part in parts] == [[6], [], [], []]
    assert {part.own.row_lengths for part in parts} == {(2, 2)}
    assert {part.num_selected for part in parts} == {(1, 0, 0, 0)}


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
