"""What prefill has to compute of new rows: those of one prompt share its keys and values.

A row that begins as another one does takes the beginning from there, be it a row that already runs or one that comes at
the same time: the samples of a prompt, their later windows, and all rows after an update that prefills them again.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

PREFILL_TOKENS = 2048  # tokens that run through the layers at once; larger passes leave the processor's cache
MIN_SHARED = 16  # tokens; what remains of the row then needs a mask of its own, which costs more than a few tokens


class PrefillRow(NamedTuple):
    """A new row, and the tokens that prefill computes for it; it begins as the row `source` does, which is computed."""

    place: int
    tokens: Sequence[int]
    source: int = -1
    num_shared: int = 0

    @property
    def length(self) -> int:
        """Tokens of its prefix but the last."""
        return self.num_shared + len(self.tokens)


def prefill_rows(prefixes: Sequence[Sequence[int]], places: Sequence[int]) -> list[PrefillRow]:
    """The rows at `places`, each after the one whose beginning it takes over.

    `prefixes` are those of all rows, whose last token is not prefilled; of an empty one nothing can be taken over.
    """
    known: dict[tuple[int, ...], list[int]] = {}  # rows by their first tokens
    for place in sorted(set(range(len(prefixes))) - set(places)):
        known.setdefault(_beginning(prefixes[place]), []).append(place)
    rows = []
    for place in places:
        body = prefixes[place][:-1]
        alike = known.setdefault(_beginning(prefixes[place]), [])
        shared, source = max(((common_length(body, prefixes[row][:-1]), row) for row in alike), default=(0, -1))
        rows.append(PrefillRow(place, body[shared:], source, shared))
        if shared < len(body):
            alike.append(place)
    return rows


def _beginning(prefix: Sequence[int]) -> tuple[int, ...]:
    return tuple(prefix[: max(0, min(MIN_SHARED, len(prefix) - 1))])


def common_length(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens two rows begin with alike."""
    low, high = 0, min(len(first), len(second))
    while low < high:
        middle = (low + high + 1) // 2
        if first[low:middle] == second[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def flat_passes(rows: Sequence[PrefillRow]) -> Iterator[list[PrefillRow]]:
    """The rows that have tokens, in lists of at most `PREFILL_TOKENS` tokens or of one row."""
    batch: list[PrefillRow] = []
    for row in rows:
        if batch and sum(len(other.tokens) for other in batch) + len(row.tokens) > PREFILL_TOKENS:
            yield batch
            batch = []
        if row.tokens:
            batch.append(row)
    if batch:
        yield batch
