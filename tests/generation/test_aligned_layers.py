"""The layers of rows that decode together. Entries are numbers made of row and place, or of a step."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.cache_utils import DynamicSlidingWindowLayer, LinearAttentionLayer

from services.generation.transformers_engine.decoders.layouts.aligned_layers import NUM_SPARE_COLUMNS, AlignedLayer
from services.generation.transformers_engine.decoders.layouts.state_layers import StateLayer


def entries(rows: list[list[float]]) -> Tensor:
    """[rows, heads, columns, size], aligned at their ends."""
    longest = max(len(row) for row in rows)
    return torch.tensor([[0.0] * (longest - len(row)) + row for row in rows])[:, None, :, None].float()


def admit(layer: AlignedLayer, rows: dict[int, list[float]], *, num_rows: int, longest: int) -> None:
    """New rows in the given places, prefilled together."""
    layer.resize(num_rows, longest)
    filled: Any = SimpleNamespace(keys=entries([*rows.values()]), values=-entries([*rows.values()]))
    layer.take(filled, torch.arange(len(rows)), torch.tensor([*rows]))


def append(layer: AlignedLayer, values: list[float]) -> list[list[float]]:
    """A token to every row; the keys that it looks at."""
    new = entries([[value] for value in values])
    keys, mirrored = layer.update(new, -new)
    assert torch.equal(keys, -mirrored)
    found: list[list[float]] = keys[:, 0, :, 0].tolist()
    return found


def test_rows_of_any_length_grow_together() -> None:
    layer = AlignedLayer()
    admit(layer, {0: [1, 2, 3], 1: [9]}, num_rows=2, longest=3)
    append(layer, [4, 10])
    looked_at = append(layer, [5, 11])

    assert looked_at[0] == [1, 2, 3, 4, 5]
    assert looked_at[1][-3:] == [9, 10, 11]
    assert layer.get_mask_sizes(1) == (6, 0)


def test_a_longer_row_joins_without_a_change_to_the_others() -> None:
    layer = AlignedLayer()
    admit(layer, {0: [1, 2]}, num_rows=1, longest=2)
    append(layer, [3])
    admit(layer, {1: [float(number) for number in range(500)]}, num_rows=2, longest=500)
    looked_at = append(layer, [4, 500])

    assert looked_at[0][-4:] == [1, 2, 3, 4]
    assert looked_at[1] == list(range(501))


def test_a_step_writes_in_place_and_moves_nothing() -> None:
    """All but one step in `NUM_SPARE_COLUMNS` leave the keys where they are."""
    layer = AlignedLayer()
    admit(layer, {0: [0.0] * 100}, num_rows=1, longest=100)
    places = set()
    for step in range(3 * NUM_SPARE_COLUMNS):
        looked_at = append(layer, [float(step)])
        assert layer.keys is not None
        places.add(layer.keys.untyped_storage().data_ptr())

    assert looked_at[0][100:] == list(range(3 * NUM_SPARE_COLUMNS))
    assert len(places) <= 4


def test_a_layer_with_a_window_shows_what_transformers_own_shows() -> None:
    """Window of 4: a token looks at itself and at 3 before it, and the mask has the others in front."""
    layer, theirs = AlignedLayer(4), DynamicSlidingWindowLayer(4)
    prefix = entries([[1, 2, 3, 4, 5]])
    theirs.update(prefix, -prefix)
    admit(layer, {0: [3, 4, 5]}, num_rows=1, longest=5)  # what transformers' layer keeps

    for number in (6.0, 7.0):
        assert layer.get_mask_sizes(1) == theirs.get_mask_sizes(1)
        new = entries([[number]])
        expected, _ = theirs.update(new, -new)
        assert append(layer, [number]) == expected[:, 0, :, 0].tolist()


def test_a_layer_with_a_window_stays_small() -> None:
    layer = AlignedLayer(16)
    for step in range(5000):
        looked_at = append(layer, [float(step)])

    assert looked_at == [list(range(4984, 5000))]
    assert layer.keys is not None
    assert layer.keys.untyped_storage().nbytes() <= 4 * (16 + NUM_SPARE_COLUMNS)


def test_rows_take_the_places_of_others() -> None:
    layer = AlignedLayer()
    admit(layer, {0: [1, 2], 1: [3, 4, 5], 2: [6]}, num_rows=3, longest=3)
    layer.move(torch.tensor([2]), torch.tensor([0]))
    layer.resize(2, 3)

    assert [row[-2:] for row in append(layer, [7, 8])] == [[6, 7], [5, 8]]


def test_a_row_begins_as_another_one() -> None:
    layer = AlignedLayer()
    admit(layer, {0: [1, 2, 3, 4]}, num_rows=1, longest=4)
    append(layer, [5])
    layer.resize(2, 5)
    layer.copy_beginning(0, 1, length=5, num_tokens=3)

    assert append(layer, [6, 4])[1][-4:] == [1, 2, 3, 4]


@pytest.mark.parametrize("shape", [(1, 3), (1, 2, 2)])
def test_states_follow_their_rows_and_new_ones_begin_with_zeros(shape: tuple[int, ...]) -> None:
    theirs = LinearAttentionLayer()
    theirs.update_recurrent_state(torch.full(shape, 7.0))
    mine = StateLayer(1)
    mine.resize(3, 0)
    mine.take(theirs, torch.tensor([0, 0]), torch.tensor([1, 2]))
    mine.move(torch.tensor([2]), torch.tensor([0]))
    mine.resize(2, 0)
    mine.clear(torch.tensor([1]))

    states: Any = mine.recurrent_states[0]
    assert [set(row.flatten().tolist()) for row in states] == [{7.0}, {0.0}]
