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


@dataclass(frozen=True, slots=True)
class HeadPlaces:
    """Where the heads of tokens stand: side by side token by token, or padded, those of a row and head together.

    A padded place that no token has shows some other one.
    """

    of_padded: Tensor  # [padded], among those of tokens
    of_tokens: Tensor  # [tokens * heads], among the padded


class QueryBlock(NamedTuple):
    """Some queries of a group's rows. Key-value heads count as rows, and the heads of each as more queries."""

    first_query: int  # of the padded ones
    first_key: int
    num_rows: int
    length: int  # keys of a row
    num_seen: int  # keys up to the last query's
    num_queries: int  # of a row and head
    num_heads: int  # that share keys

    def own(self, padded: Tensor) -> Tensor:
        """[rows, heads * queries, head_dim]."""
        head_dim, num = padded.shape[1], self.num_heads * self.num_queries
        return padded.as_strided(
            (self.num_rows, num, head_dim), (num * head_dim, head_dim, 1), self.first_query * head_dim
        )

    def seen(self, padded: Tensor) -> Tensor:
        """[rows, keys, head_dim]."""
        head_dim = padded.shape[1]
        size, strides = (self.num_rows, self.num_seen, head_dim), (self.length * head_dim, head_dim, 1)
        return padded.as_strided(size, strides, self.first_key * head_dim)

    def seen_across(self, padded: Tensor) -> Tensor:
        """[rows, head_dim, keys]."""
        head_dim = padded.shape[1]
        size, strides = (self.num_rows, head_dim, self.num_seen), (self.length * head_dim, 1, head_dim)
        return padded.as_strided(size, strides, self.first_key * head_dim)


@dataclass(frozen=True, slots=True)
class RowGroups:
    """The rows of a line in groups."""

    groups: tuple[RowGroup, ...]
    blocks: tuple[QueryBlock, ...]
    queried: Tensor | None  # [n], places in the line of the tokens with queries; None: every token's
    queries: HeadPlaces  # block by block of each group; in a block [rows, heads, places]
    keys: HeadPlaces  # group by group; in a group [rows, heads, places]


@lru_cache(maxsize=16)  # a mini-batch that is scored before the update is trained in the same micro-batches
def row_groups(lengths: tuple[int, ...], firsts: tuple[int, ...], *, num_heads: int, num_kv_heads: int) -> RowGroups:
    """Of the rows in a line, each with queries from one of its tokens on, or from an earlier one."""
    groups = tuple(_grouped(lengths, firsts))
    total = sum(lengths)
    blocks = [_padded(group.begins, group.lengths, block) for group in groups for block in group.blocks()]
    has_query = numpy.zeros(total, dtype=numpy.bool_)
    for tokens, is_real in blocks:
        has_query[tokens[is_real]] = True
    queried = numpy.flatnonzero(has_query)
    number = numpy.cumsum(has_query) - 1
    return RowGroups(
        groups,
        tuple(_blocks(groups, num_heads, num_kv_heads)),
        None if len(queried) == total else torch.from_numpy(queried),
        _head_places([(number[tokens], is_real) for tokens, is_real in blocks], len(queried), num_heads),
        _key_places(tuple((group.begins, group.lengths) for group in groups), total, num_kv_heads),
    )


@lru_cache(maxsize=16)  # most often all blocks of a network have the same groups
def _key_places(rows: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...], total: int, num_heads: int) -> HeadPlaces:
    """Of all tokens of the groups' rows, given by begins and lengths."""
    whole = [_padded(begins, lengths, range(lengths[0])) for begins, lengths in rows]
    return _head_places(whole, total, num_heads)


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


def _blocks(groups: Sequence[RowGroup], num_heads: int, num_kv_heads: int) -> Iterator[QueryBlock]:
    query = key = 0
    for group in groups:
        num_rows = len(group.begins) * num_kv_heads
        for places in group.blocks():
            block = QueryBlock(query, key, num_rows, group.length, places.stop, len(places), num_heads // num_kv_heads)
            yield block
            query += num_rows * block.num_heads * block.num_queries
        key += num_rows * group.length


def _padded(begins: Sequence[int], lengths: Sequence[int], places: range) -> tuple[Places, Places]:
    """Of these places of each row: the token in the line, its row's last where there is none, and whether there is one.

    [rows, places] each.
    """
    first, num = numpy.array(begins)[:, None], numpy.array(lengths)[:, None]
    wanted = numpy.arange(places.start, places.stop)
    return first + numpy.minimum(wanted, num - 1), wanted < num


def _head_places(parts: Sequence[tuple[Places, Places]], num_tokens: int, num_heads: int) -> HeadPlaces:
    """Of parts [rows, places], which become [rows, heads, places]."""
    heads = numpy.arange(num_heads)[:, None]
    of_padded = numpy.concatenate([(tokens[:, None] * num_heads + heads).ravel() for tokens, _ in parts])
    shapes = [(len(tokens), num_heads, tokens.shape[1]) for tokens, _ in parts]
    is_real = numpy.concatenate(
        [numpy.broadcast_to(real[:, None], shape).ravel() for (_, real), shape in zip(parts, shapes, strict=True)]
    )
    of_tokens = numpy.empty(num_tokens * num_heads, dtype=numpy.int64)
    of_tokens[of_padded[is_real]] = numpy.flatnonzero(is_real)
    return HeadPlaces(torch.from_numpy(of_padded), torch.from_numpy(of_tokens))
