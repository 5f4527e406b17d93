"""One step's trace as a table: a row for each token that took part in the step.

Of an unfinished response these are the tokens of its window; of a finished one all tokens, because the earlier windows
train the value model now (`in_window` is False for them, and what concerns the policy is null).
"""

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy
import pyarrow
import torch
from numpy.typing import NDArray
from torch import Tensor

from learner.rollouts.rollout import Rollout
from learner.step.estimation.experience import Estimates, Sampled
from learner.step.measurements.trace_schema import SCHEMA, Header
from learner.step.updates.policy_update import OfToken

Column = NDArray[Any]


def trace_table(
    rows: Sequence[Rollout],
    sampled: Sampled,
    estimates: Estimates,
    outcomes: Mapping[int, Tensor],
    *,
    header: Header,
    gamma: float,
) -> pyarrow.Table:
    """The table of a step; `outcomes` by row, empty while the value model warms up."""
    tokens = _Tokens.of(rows)
    policy = _PolicyColumns.of(sampled, outcomes)
    is_sampled = tokens.joined([row.is_sampled() for row in rows]).astype(numpy.bool_)
    in_windows = sampled.in_windows().numpy()

    def flat(padded: Tensor) -> Column:
        """The window's entries of a [batch, time] tensor, row after row."""
        of_windows: Column = padded.numpy()[in_windows]
        return of_windows

    has_estimate = flat(sampled.response_mask)
    trains_policy = flat(estimates.policy_mask) & policy.has_outcome
    is_finished = tokens.of_rows([row.is_finished for row in rows])
    columns: dict[str, Any] = {
        "rollout_id": pyarrow.DictionaryArray.from_arrays(tokens.row, [row.rollout_id for row in rows]),
        "window_index": _nullable(tokens.of_rows([row.window_index for row in rows]), tokens.in_window),
        "position": tokens.position,
        "token_id": tokens.joined([row.response_tokens for row in rows]),
        "policy_version": tokens.joined([row.token_versions for row in rows]),
        "rollout_logprob": tokens.joined([row.rollout_logprobs for row in rows]),
        "old_logprob": tokens.spread(policy.old_logprobs, policy.has_outcome & has_estimate),
        "ratio": tokens.spread(policy.ratio, trains_policy),
        "is_clipped": tokens.spread(policy.is_clipped, trains_policy),
        "value": _values(tokens, rows, flat(estimates.values)),
        "raw_advantage": tokens.spread(flat(estimates.raw_advantages), has_estimate),
        "advantage": tokens.spread(flat(estimates.advantages), trains_policy),
        "return": _nullable(_returns(tokens, sampled, is_sampled, gamma), is_finished & is_sampled),
        "in_window": tokens.in_window,
        "policy_mask": tokens.spread(trains_policy).fill_null(False),
        "value_mask": estimates.value_mask.numpy()[tokens.row, tokens.position],
        "is_sampled": is_sampled,
    }
    return pyarrow.table(columns, schema=SCHEMA.with_metadata(header.metadata()))


@dataclass(frozen=True, slots=True)
class _Tokens:
    """Which tokens the table has; [n]."""

    row: Column  # index of the step's row
    position: Column  # in the response
    in_window: Column  # bool
    first: list[int]  # per row: position of its first token in the table

    @classmethod
    def of(cls, rows: Sequence[Rollout]) -> "_Tokens":
        first = [0 if row.is_finished else row.window_start for row in rows]
        spans = [range(begin, len(row.response_tokens)) for begin, row in zip(first, rows, strict=True)]
        row_of_token = numpy.repeat(numpy.arange(len(rows), dtype=numpy.int32), [len(span) for span in spans])
        position = numpy.concatenate([numpy.arange(span.start, span.stop, dtype=numpy.int32) for span in spans])
        window_starts = numpy.array([row.window_start for row in rows])
        return cls(row_of_token, position, position >= window_starts[row_of_token], first)

    def of_rows(self, numbers: Sequence[int | bool | float]) -> Column:
        """A number of each row, for each of its tokens."""
        return numpy.array(numbers)[self.row]

    def joined(self, arrays: "Sequence[array[Any] | bytes]") -> Column:
        """Per-token arrays of whole responses, cut to the table's tokens and laid end to end."""
        return numpy.concatenate(
            [numpy.asarray(memoryview(of_row)[begin:]) for begin, of_row in zip(self.first, arrays, strict=True)]
        )

    def spread(self, of_window: Column, is_known: Column | None = None) -> pyarrow.Array:
        """Numbers of the window's tokens as a column; null for the others and where they are not known."""
        column = numpy.zeros(len(self.position), dtype=of_window.dtype)
        column[self.in_window] = of_window
        is_valid = self.in_window.copy()
        if is_known is not None:
            is_valid[self.in_window] = is_known
        return _nullable(column, is_valid)


@dataclass(frozen=True, slots=True)
class _PolicyColumns:
    """What the policy's update made of the window's tokens; [n]."""

    has_outcome: Column
    old_logprobs: Column
    ratio: Column
    is_clipped: Column

    @classmethod
    def of(cls, sampled: Sampled, outcomes: Mapping[int, Tensor]) -> "_PolicyColumns":
        lengths = [sampled.window_length(row) for row in range(sampled.num_rows)]
        nothing = torch.zeros(max(lengths), len(OfToken))
        parts = [outcomes.get(row, nothing) for row in range(len(lengths))]  # whose last tokens are the window's
        of_tokens = torch.cat([part[len(part) - num :] for part, num in zip(parts, lengths, strict=True)]).numpy()
        return cls(
            has_outcome=numpy.repeat([row in outcomes for row in range(len(lengths))], lengths),
            old_logprobs=of_tokens[:, OfToken.OLD_LOGPROB],
            ratio=of_tokens[:, OfToken.RATIO],
            is_clipped=of_tokens[:, OfToken.IS_CLIPPED].astype(numpy.bool_),
        )


def _nullable(column: Column, is_valid: Column) -> pyarrow.Array:
    return pyarrow.array(column, mask=~is_valid)


def _values(tokens: _Tokens, rows: Sequence[Rollout], of_windows: Column) -> Column:
    """As predicted in the step that took the token: now for the window's, stored for the earlier ones."""
    column = numpy.empty(len(tokens.position), dtype=numpy.float32)
    column[tokens.in_window] = of_windows
    column[~tokens.in_window] = tokens.joined([row.values for row in rows])
    return column


def _returns(tokens: _Tokens, sampled: Sampled, is_sampled: Column, gamma: float) -> Column:
    """The score, discounted by the sampled tokens that follow in the response."""
    num_up_to = numpy.cumsum(is_sampled)
    last_of_row = numpy.cumsum(numpy.bincount(tokens.row, minlength=sampled.num_rows)) - 1
    distance = num_up_to[last_of_row][tokens.row] - num_up_to
    discounted: Column = tokens.of_rows(sampled.rewards.tolist()) * gamma**distance
    return discounted.astype(numpy.float32)
