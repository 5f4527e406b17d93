"""The cache that is aligned at the rows' ends. Entries are numbers made of row and place."""

import torch

from services.generation.transformers_engine.decoders.kv_cache import AlignedCache


def a_cache(num_slots: int = 3) -> AlignedCache:
    return AlignedCache(
        num_layers=1, num_slots=num_slots, num_kv_heads=1, head_dim=1, dtype=torch.float32, device=torch.device("cpu")
    )


def place(cache: AlignedCache, row: int, values: list[float]) -> None:
    """A row with the given keys."""
    cache.make_room(before=len(values))
    cache.set_row(row, len(values))
    cache.entries[0, 0, row, 0, cache.end - len(values) : cache.end, 0] = torch.tensor(values)


def append(cache: AlignedCache, values: list[float]) -> None:
    """One token to every row."""
    column = cache.open_column()
    cache.entries[0, 0, : len(values), 0, column, 0] = torch.tensor(values)


def contents(cache: AlignedCache) -> list[list[float]]:
    """Of each row, the keys that the mask shows."""
    return [cache.entries[0, 0, row, 0, cache.mask[row] == 0, 0].tolist() for row in range(len(cache.lengths))]


def test_rows_of_any_length_grow_together() -> None:
    cache = a_cache()
    place(cache, 0, [1, 2, 3])
    place(cache, 1, [])
    append(cache, [4, 10])
    append(cache, [5, 11])

    assert contents(cache) == [[1, 2, 3, 4, 5], [10, 11]]
    assert cache.lengths == [5, 2]


def test_a_row_longer_than_all_before_it_moves_them_to_the_right() -> None:
    cache = a_cache()
    place(cache, 0, [1, 2])
    append(cache, [3])
    place(cache, 1, [float(number) for number in range(500)])

    assert contents(cache) == [[1, 2, 3], list(range(500))]


def test_rows_survive_the_moves_to_the_left_that_many_steps_need() -> None:
    """1000 steps; every 100th a new row replaces the second, so that the cache could not hold all columns ever used."""
    cache = a_cache()
    place(cache, 0, [0.5])
    place(cache, 1, [])
    for step in range(1000):
        if step % 100 == 0:
            place(cache, 1, [-1])
        append(cache, [float(step), -float(step)])

    assert contents(cache) == [[0.5, *range(1000)], [-1, *(-float(step) for step in range(900, 1000))]]


def test_columns_are_used_again_when_the_long_rows_have_left() -> None:
    cache = a_cache()
    for _ in range(50):
        place(cache, 0, [])
        for step in range(100):
            append(cache, [float(step)])

    assert contents(cache) == [list(range(100))]
    assert cache.entries.shape[-2] < 1000


def test_a_row_moves_over_another_one() -> None:
    cache = a_cache()
    place(cache, 0, [1, 2, 3, 4])
    place(cache, 1, [5, 6])
    cache.move_row(1, 0)
    cache.truncate(1)
    append(cache, [7])

    assert contents(cache) == [[5, 6, 7]]


def test_rows_are_permuted() -> None:
    cache = a_cache()
    for row, values in enumerate(([1.0], [2.0, 2.5], [3.0, 3.5, 3.75])):
        place(cache, row, values)
    cache.permute([2, 0, 1])

    assert contents(cache) == [[3, 3.5, 3.75], [1], [2, 2.5]]
    assert cache.lengths == [3, 1, 2]


def test_a_reset_leaves_no_old_numbers_behind() -> None:
    cache = a_cache()
    place(cache, 0, [torch.nan] * 5)
    cache.reset()
    place(cache, 0, [1])

    assert torch.isfinite(cache.entries).all()
