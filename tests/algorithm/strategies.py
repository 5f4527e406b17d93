"""Hypothesis strategies: rows of a training batch, and the padded tensors that the learner would make of them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor

property_test = settings(max_examples=60, deadline=None)

unit_interval = st.one_of(st.sampled_from([0.0, 0.95, 1.0]), st.floats(0.0, 1.0, width=32))
small_floats = st.floats(-2.0, 2.0, width=32)


@dataclass(frozen=True)
class Row:
    rewards: list[float]
    values: list[float]
    is_finished: bool


@dataclass(frozen=True)
class Batch:
    """A padded batch, all [batch, time] but `is_finished` [batch]; float64."""

    rewards: Tensor
    values: Tensor
    response_mask: Tensor
    is_finished: Tensor


@st.composite
def rows(draw: st.DrawFn, *, min_length: int = 0, is_finished: bool | None = None, has_rewards: bool = True) -> Row:
    length = draw(st.integers(min_length, 8))
    floats_of_row = st.lists(small_floats, min_size=length, max_size=length)
    return Row(
        rewards=draw(floats_of_row) if has_rewards else [0.0] * length,
        values=draw(floats_of_row),
        is_finished=draw(st.booleans()) if is_finished is None else is_finished,
    )


def batches_of_rows(*, min_length: int = 0) -> st.SearchStrategy[list[Row]]:
    return st.lists(rows(min_length=min_length), min_size=1, max_size=4)


def as_batch(batch_rows: Sequence[Row], *, num_padding: int = 2, padding: float = math.nan) -> Batch:
    width = max(len(row.values) for row in batch_rows) + num_padding

    def padded(numbers: Sequence[float]) -> list[float]:
        return [*numbers, *[padding] * (width - len(numbers))]

    return Batch(
        rewards=torch.tensor([padded(row.rewards) for row in batch_rows], dtype=torch.float64),
        values=torch.tensor([padded(row.values) for row in batch_rows], dtype=torch.float64),
        response_mask=torch.tensor(
            [[t < len(row.values) for t in range(width)] for row in batch_rows], dtype=torch.bool
        ),
        is_finished=torch.tensor([row.is_finished for row in batch_rows]),
    )
