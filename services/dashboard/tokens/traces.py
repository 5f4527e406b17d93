"""Rows of `traces/step_N.parquet` (docs/traces.md). Of a file, the row groups and columns that are needed are read."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow
from pyarrow import compute, parquet

TOKEN_COLUMNS = (
    *(
        "rollout_id",
        "position",
        "window_index",
        "token_id",
        "policy_version",
        "rollout_logprob",
        "old_logprob",
        "ratio",
    ),
    *("is_clipped", "value", "raw_advantage", "advantage", "return", "in_window", "policy_mask", "value_mask"),
)
IS_SAMPLED = "is_sampled"  # traces of older releases lack it: every token was
CRITIC_COLUMNS = ("value", "return", "in_window", "position", "value_mask")
MAX_ROWS_SAMPLED_FROM = 4_000_000
"""Of a larger trace, its first row groups are sampled."""

Rows = dict[str, list[Any]]


def rows_of(path: Path, rollout: str) -> Rows | None:
    """The rollout's rows, by column; None for a file that is missing or is no trace."""
    try:
        with parquet.ParquetFile(path) as file:
            parts = [
                part for group in range(file.num_row_groups) if (part := _rows_of(file, group, rollout)) is not None
            ]
    except (OSError, pyarrow.ArrowException, KeyError):
        return None
    if not parts:
        return {name: [] for name in (*TOKEN_COLUMNS, IS_SAMPLED)}
    columns: Rows = pyarrow.concat_tables(parts).to_pydict()
    found = columns.get(IS_SAMPLED, [None] * len(columns["position"]))
    return columns | {IS_SAMPLED: [is_sampled is not False for is_sampled in found]}


def value_points(path: Path, *, max_points: int, seed: int) -> Rows | None:
    """Values and returns of tokens that trained the value model, drawn at random; None as above."""
    try:
        with parquet.ParquetFile(path) as file:
            table = file.read_row_groups(_first_groups(file), columns=list(CRITIC_COLUMNS))
        table = table.filter(compute.field("value_mask"))
    except (OSError, pyarrow.ArrowException, KeyError):
        return None
    count = min(max_points, table.num_rows)
    rows = sorted(random.Random(seed).sample(range(table.num_rows), count))
    columns: Rows = table.take(pyarrow.array(rows, pyarrow.int64())).to_pydict()
    return columns


def _rows_of(file: Any, group: int, rollout: str) -> Any:
    """Rows of one group; the rest of it is read only where its names have the rollout."""
    if not _may_hold(file.metadata.row_group(group), rollout):
        return None
    names = file.read_row_group(group, columns=["rollout_id"]).column("rollout_id")
    mask = compute.equal(names.cast(pyarrow.string()), rollout)
    if not compute.any(mask).as_py():
        return None
    return file.read_row_group(group, columns=[*TOKEN_COLUMNS, IS_SAMPLED]).filter(mask)


def _may_hold(group: Any, rollout: str) -> bool:
    statistics = group.column(0).statistics
    if statistics is None or not statistics.has_min_max or not isinstance(statistics.min, str):
        return True
    return bool(statistics.min <= rollout <= statistics.max)


def _first_groups(file: Any) -> Sequence[int]:
    groups, num_rows = [], 0
    for group in range(file.num_row_groups):
        groups.append(group)
        num_rows += file.metadata.row_group(group).num_rows
        if num_rows >= MAX_ROWS_SAMPLED_FROM:
            break
    return groups
