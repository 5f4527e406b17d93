"""Which rows of a line attend together, and where the heads of their tokens stand then.

Rows of like length are padded at their ends to the longest of their group: under a causal mask no token sees the
padding behind it, so one product serves all rows of a group, and nothing is masked but what comes later. Of a row, its
last tokens alone may have queries; they see all tokens before them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import Any, NamedTuple

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

#: Scores computed in vain that cost about as much as one more group.
SCORES_PER_GROUP = 8192
#: Queries of a row that meet its keys at once; the scores above their diagonal are computed in vain.
MAX_QUERIES = 128

Places = NDArray[Any]


@dataclass(frozen=True, slots=True)
class RowGroup:
    """Rows of like length; [rows]."""

    begins: tuple[int, ...]  # of the rows' tokens in the line
    lengths: tuple[int, ...]
    first: int  # from this token of each row on they have queries

    @property
    def length(self) -> int:
        """Of the longest, which is the first."""
        return self.lengths[0]

    def blocks(self) -> list[range]:
        """Places in the row whose queries meet their keys, all up to the last of them, at once."""
        starts = range(self.first, self.length, MAX_QUERIES)
        return [range(start, min(start + MAX_QUERIES, self.length)) for start in starts]


class Heads(NamedTuple):
    """Of each token."""

    num: int
    num_kv: int
    size: int  # numbers of each


@dataclass(frozen=True, slots=True)
class HeadPlaces:
    """Where the heads of tokens stand: token by token, or padded, those of a row and head together.

    A padded place that no token has shows some other one; a query that nobody asks stands behind all padded places.
    """

    of_padded: Tensor  # [padded], among those of tokens
    of_tokens: Tensor  # [tokens * heads], among the padded


View = tuple[tuple[int, ...], tuple[int, ...], int]
"""Size, strides and first number, as `as_strided` takes them."""


class QueryBlock(NamedTuple):
    """Some queries of a group's rows. Key-value heads count as rows, and the heads of each as more queries.

    Views of the padded heads, but for the last three.
    """

    queries: View  # [rows, heads * queries, size]
    keys: View  # [rows, keys, size], up to the last query's
    keys_across: View  # [rows, size, keys]
    values: View
    values_across: View
    scores: tuple[int, int, int]  # [rows, heads * queries, keys]
    diagonal: View  # of scores: [rows * heads, queries, queries]
    is_last: bool  # of its group: the keys are all of the rows'

    @property
    def num_queries(self) -> int:
        """Of a row and head."""
        return self.diagonal[0][1]


@dataclass(frozen=True, slots=True)
class RowGroups:
    """The rows of a line in groups.

    Heads stand in one tensor: of each token its queries, its keys and its values; or padded, all queries, then all
    keys, then all values.
    """

    groups: tuple[RowGroup, ...]
    blocks: tuple[QueryBlock, ...]
    queried: Tensor | None  # [n], places in the line of the tokens with queries; None: every token's
    num_asking: int  # of them
    places: HeadPlaces  # of all heads
    num_queries: int  # padded heads of queries
    query_places: Tensor  # [n * heads], places of the queries' heads among the padded


@lru_cache(maxsize=32)  # the probe's rows, and those of a mini-batch that has several epochs, come again
def row_groups(lengths: tuple[int, ...], firsts: tuple[int, ...], heads: Heads) -> RowGroups:
    """Of the rows in a line, each with queries from one of its tokens on, or from an earlier one."""
    groups = tuple(_grouped(lengths, firsts))
    rows = [_padded(group) for group in groups]
    asking = [row.part(places) for group, row in zip(groups, rows, strict=True) for places in group.blocks()]
    queried = None if not any(firsts) else _queried(asking, sum(lengths))
    of_each = heads.num + 2 * heads.num_kv
    queries, are_queries = _of_heads(asking, heads.num, first=0, of_each=of_each)
    keys, are_keys = _of_heads(rows, heads.num_kv, first=heads.num, of_each=of_each)
    of_padded = numpy.concatenate([queries, keys, keys + heads.num_kv])
    is_real = numpy.concatenate([are_queries, are_keys, are_keys])
    of_tokens = numpy.full(sum(lengths) * of_each, len(of_padded))
    of_tokens[of_padded[is_real]] = numpy.flatnonzero(is_real)
    of_queries = of_tokens.reshape(-1, of_each)[:, : heads.num]
    asked = of_queries if queried is None else of_queries[queried]
    return RowGroups(
        groups,
        tuple(_blocks(groups, heads, len(queries), len(keys))),
        None if queried is None else torch.from_numpy(queried),
        len(asked),
        HeadPlaces(torch.from_numpy(of_padded), torch.from_numpy(of_tokens)),
        len(queries),
        torch.from_numpy(asked.ravel()),
    )


class _PaddedRows(NamedTuple):
    """Of each place of some rows, [rows, places]."""

    tokens: Places  # in the line; its row's last where there is none
    is_real: Places

    def part(self, places: range) -> "_PaddedRows":
        """Some of the places."""
        return _PaddedRows(self.tokens[:, places.start : places.stop], self.is_real[:, places.start : places.stop])


def _padded(group: RowGroup) -> _PaddedRows:
    first, num = numpy.array(group.begins)[:, None], numpy.array(group.lengths)[:, None]
    places = numpy.arange(group.length)
    return _PaddedRows(first + numpy.minimum(places, num - 1), places < num)


def _queried(asking: Sequence[_PaddedRows], total: int) -> Places | None:
    """Tokens with queries; None where all have one."""
    has_query = numpy.zeros(total, dtype=numpy.bool_)
    for tokens, is_real in asking:
        has_query[tokens[is_real]] = True
    return None if has_query.all() else numpy.flatnonzero(has_query)


def _of_heads(parts: Sequence[_PaddedRows], num: int, *, first: int, of_each: int) -> tuple[Places, Places]:
    """Of parts [rows, places], as [rows, heads, places] one after the other: the head, and whether it is a token's.

    Of the `of_each` heads of a token they are the `first` and the next.
    """
    heads = first + numpy.arange(num)[:, None]
    found = [(tokens[:, None] * of_each + heads).ravel() for tokens, _ in parts]
    return numpy.concatenate(found), numpy.concatenate([real[:, None].repeat(num, 1).ravel() for _, real in parts])


def _grouped(lengths: Sequence[int], firsts: Sequence[int]) -> Iterator[RowGroup]:
    """The longest rows first; a row joins those before it where that costs less than a group of its own."""
    begins = [0, *accumulate(lengths)]
    rows: list[int] = []
    longest = first = 0
    for row in sorted(range(len(lengths)), key=lambda row: (-lengths[row], row)):
        earliest = min(first, firsts[row]) if rows else firsts[row]
        apart = len(rows) * (longest - first) * longest + (lengths[row] - firsts[row]) * lengths[row]
        if rows and (len(rows) + 1) * (longest - earliest) * longest - apart > SCORES_PER_GROUP:
            yield _group(rows, begins, lengths, first)
            rows, longest, earliest = [], lengths[row], firsts[row]
        rows.append(row)
        longest, first = max(longest, lengths[row]), earliest
    if rows:
        yield _group(rows, begins, lengths, first)


def _group(rows: Sequence[int], begins: Sequence[int], lengths: Sequence[int], first: int) -> RowGroup:
    return RowGroup(tuple(begins[row] for row in rows), tuple(lengths[row] for row in rows), first)


def _blocks(groups: Sequence[RowGroup], heads: Heads, first_key: int, num_keys: int) -> Iterator[QueryBlock]:
    """Keys stand from `first_key` on among the padded heads, and so many heads behind them their values."""
    query, key, size = 0, first_key, heads.size
    num_shared = heads.num // heads.num_kv  # heads that share keys
    for group in groups:
        rows = len(group.begins) * heads.num_kv
        for places in group.blocks():
            num, seen = num_shared * len(places), places.stop
            along, across = (group.length * size, size, 1), (group.length * size, 1, size)
            yield QueryBlock(
                queries=((rows, num, size), (num * size, size, 1), query * size),
                keys=((rows, seen, size), along, key * size),
                keys_across=((rows, size, seen), across, key * size),
                values=((rows, seen, size), along, (key + num_keys) * size),
                values_across=((rows, size, seen), across, (key + num_keys) * size),
                scores=(rows, num, seen),
                diagonal=(
                    (rows * num_shared, len(places), len(places)),
                    (len(places) * seen, seen, 1),
                    seen - len(places),
                ),
                is_last=seen == group.length,
            )
            query += rows * num
        key += rows * group.length
