import pytest
import torch

from learner.models.loading.probing import enable_packing
from learner.models.passes.packing import TokenRow, pack, pad_rows, unpack
from learner.parallel.sequence import SequenceRanks
from tools.tiny_families import tiny_model
from tppo.models.probe import ProbeError


def test_a_micro_batch_lays_its_rows_end_to_end_with_positions_restarting() -> None:
    (packed,) = pack([TokenRow([5, 6, 7], start=1), TokenRow([8, 9], start=1)], max_tokens=5)

    assert packed.input_ids.tolist() == [[5, 6, 7, 8, 9]]
    assert packed.position_ids.tolist() == [[0, 1, 2, 0, 1]]


def test_selected_positions_are_those_that_precede_the_selected_tokens() -> None:
    (packed,) = pack([TokenRow([5, 6, 7, 8], start=2), TokenRow([1, 2, 3], start=1)], max_tokens=7)

    # First row: tokens 7 and 8 stand at 2 and 3; second row (from position 4 on): tokens 2 and 3 stand at 5 and 6.
    assert packed.target_ids.tolist() == [7, 8, 2, 3]
    assert packed.selected_positions.tolist() == [1, 2, 4, 5]
    assert packed.last_positions.tolist() == [3, 6]


def test_no_micro_batch_exceeds_the_limit_except_for_a_single_longer_row() -> None:
    rows = [TokenRow([0] * length, start=1) for length in (3, 12, 4, 2, 6, 5)]

    batches = pack(rows, max_tokens=8)

    assert [batch.row_lengths for batch in batches] == [(12,), (6, 2), (5, 3), (4,)]


def test_packing_the_same_rows_again_gives_the_same_micro_batches() -> None:
    rows = [TokenRow([index] * (1 + index % 7), start=1) for index in range(40)]

    first, second = pack(rows, max_tokens=16), pack(rows, max_tokens=16)

    assert [batch.row_indices for batch in first] == [batch.row_indices for batch in second]


def test_results_return_to_the_order_in_which_the_rows_were_given() -> None:
    rows = [TokenRow([10, 11, 12], start=2), TokenRow([20, 21, 22, 23, 24], start=1), TokenRow([30, 31], start=1)]
    batches = pack(rows, max_tokens=5)

    per_row = unpack(batches, [batch.target_ids for batch in batches])

    assert [row.tolist() for row in per_row] == [[12], [21, 22, 23, 24], [31]]


def test_a_row_without_selected_tokens_keeps_its_place() -> None:
    batches = pack([TokenRow([1, 2, 3], start=3), TokenRow([4, 5], start=1)], max_tokens=8)

    per_row = unpack(batches, [batch.target_ids for batch in batches])

    assert [row.tolist() for row in per_row] == [[], [5]]


def test_a_row_whose_first_token_is_selected_is_refused() -> None:
    with pytest.raises(ValueError, match="a token precedes it"):
        TokenRow([1, 2], start=0)


def test_padded_rows_are_zero_where_the_mask_is_false() -> None:
    padded = pad_rows([torch.tensor([1.0, 2.0]), torch.tensor([3.0])])

    assert padded.values.tolist() == [[1.0, 2.0], [3.0, 0.0]]
    assert padded.mask.tolist() == [[True, True], [True, False]]


def test_split_gives_one_micro_batch_per_row_with_positions_of_its_own() -> None:
    (packed,) = pack([TokenRow([5, 6, 7, 8], start=2), TokenRow([1, 2, 3], start=1)], max_tokens=7)

    first, second = packed.split()

    assert first.input_ids.tolist() == [[5, 6, 7, 8]]
    assert second.input_ids.tolist() == [[1, 2, 3]]
    assert second.position_ids.tolist() == [[0, 1, 2]]
    assert second.selected_positions.tolist() == [0, 1]
    assert second.target_ids.tolist() == [2, 3]
    assert second.row_indices == (1,)


@pytest.mark.parametrize(
    ("family", "why"),
    [
        ("bloom", "its code computes attention by itself"),
        ("phimoe", "a token of a line gets another result than that of its row alone"),
    ],
)
def test_a_model_whose_rows_do_not_stand_in_one_line_has_no_tokens_to_share(family: str, why: str) -> None:
    expected = f"the tokens of {family} cannot be divided among learner.sequence_parallel_size = 2 processes: {why}"

    with pytest.raises(ProbeError, match=f"^{expected}; expected 1, or another model$"):
        enable_packing(tiny_model(family), torch.float32, SequenceRanks(rank=0, size=2))

    assert not enable_packing(tiny_model(family), torch.float32)
