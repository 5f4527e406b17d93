"""How a step's rows are dealt out to optimizer updates."""

from collections.abc import Iterator, Sequence


def mini_batches(rows: Sequence[int], *, count: int, epochs: int) -> Iterator[Sequence[int]]:
    """`epochs` passes over the rows in `count` mini-batches, dealt like cards; empty ones are left out."""
    for _ in range(epochs):
        for first in range(min(count, len(rows))):
            yield rows[first::count]
