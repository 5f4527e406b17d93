"""Where rows of mixed lengths are split."""

from itertools import pairwise

import pytest

from services.generation.transformers_engine.decoders.attention_groups import MAX_GROUPS, split_into_groups


def cost(lengths: list[int], groups: list[range], overhead: int) -> int:
    return sum(overhead + len(group) * max(lengths[row] for row in group) for group in groups)


def all_splits(num_rows: int) -> list[list[range]]:
    """Every way to cut a row of rows, by the bits of a number: a set bit cuts behind that row."""
    splits = []
    for bits in range(2 ** (num_rows - 1)):
        cuts = [0, *(row + 1 for row in range(num_rows - 1) if bits >> row & 1), num_rows]
        splits.append([range(*pair) for pair in pairwise(cuts)])
    return [split for split in splits if len(split) <= MAX_GROUPS]


def test_rows_of_similar_length_stay_together() -> None:
    assert split_into_groups([100, 99, 100, 98], overhead=20) == [range(4)]


def test_a_long_row_stands_alone_when_that_saves_more_than_a_call_costs() -> None:
    """Together 4 * 1000 = 4000; apart 1000 + 3 * 10 and one more call."""
    assert split_into_groups([1000, 10, 10, 10], overhead=100) == [range(1), range(1, 4)]
    assert split_into_groups([1000, 10, 10, 10], overhead=3000) == [range(4)]


@pytest.mark.parametrize("overhead", [1, 50, 400])
@pytest.mark.parametrize(
    "lengths", [[7], [5, 900], [300, 20, 310, 15, 290, 10, 5, 2, 700], [900, 700, 500, 300, 200, 100, 50, 20, 10, 5]]
)
def test_the_chosen_split_is_the_cheapest(lengths: list[int], overhead: int) -> None:
    groups = split_into_groups(lengths, overhead=overhead)

    assert [row for group in groups for row in group] == list(range(len(lengths)))
    assert cost(lengths, groups, overhead) == min(cost(lengths, split, overhead) for split in all_splits(len(lengths)))
