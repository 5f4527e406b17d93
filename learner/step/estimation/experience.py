"""The rows of one step as tensors: what was sampled, what the models say of it, and what follows from both.

`time` counts the tokens of the current window, left-aligned; a row's window may be shorter than the longest one. Tokens
that the policy did not sample (a tool's output) have their place in it, and are False in every mask.
"""

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from learner.algorithm.rewards import overlong_penalty, terminal_rewards
from learner.models.passes.packing import TokenRow
from learner.rollouts.rollout import Rollout

if TYPE_CHECKING:  # what computes runs where no configuration library is installed
    from tppo.config.schema import AlgorithmSection


@dataclass(frozen=True, slots=True)
class Sampled:
    """What arrived, as tensors."""

    token_ids: list[Tensor]  # per row: prompt and whole response
    prompt_lengths: list[int]
    window_starts: list[int]  # response tokens before the window
    earlier_values: list[Tensor]  # per row: values of the response tokens before the window
    is_sampled: list[Tensor]  # per row: bool of all response tokens, False for those that the policy did not sample
    response_mask: Tensor  # [batch, time] bool: tokens of the window that the policy sampled
    rollout_logprobs: Tensor  # [batch, time]
    token_versions: Tensor  # [batch, time] int
    is_finished: Tensor  # [batch] bool
    scores: Tensor  # [batch]; 0 for unfinished rows, which have none
    rewards: Tensor  # [batch]: what the response's last token earns: the score, less a penalty where one is configured
    response_lengths: Tensor  # [batch]: all windows, with the tokens that were not sampled
    has_full_windows: Tensor  # [batch] bool: all windows but the last are whole, and every token was sampled

    @property
    def num_rows(self) -> int:
        """Rows of the step."""
        return len(self.token_ids)

    def row_from(self, index: int, first: int) -> TokenRow:
        """The row with its response's tokens from `first` on selected."""
        return TokenRow(self.token_ids[index], self.prompt_lengths[index] + first)

    def window_rows(self) -> list[TokenRow]:
        """All rows, each with its window selected."""
        return [self.row_from(index, first) for index, first in enumerate(self.window_starts)]

    def all_windows_mask(self) -> Tensor:
        """[batch, longest response] bool: the sampled tokens of the whole responses, all windows so far."""
        return pad_sequence(self.is_sampled, batch_first=True)

    def rows_with_returns(self) -> list[int]:
        """Finished rows with a sampled token: a response that ended without one (two stalls) has nothing to predict."""
        rows: list[int] = torch.nonzero(self.is_finished & (self.num_sampled() > 0)).flatten().tolist()
        return rows

    def num_sampled(self) -> Tensor:
        """Of the whole responses [batch]."""
        return torch.tensor([numpy.count_nonzero(of_row.numpy()) for of_row in self.is_sampled], dtype=torch.long)

    def window_length(self, index: int) -> int:
        """Tokens of the row's window, with those that were not sampled."""
        return self.is_sampled[index].shape[0] - self.window_starts[index]

    def window_rewards(self) -> Tensor:
        """[batch, time]: what a finished row earns, at its last sampled token, else 0."""
        return terminal_rewards(self.rewards, self.response_mask)

    def response_values(self, window_values: Tensor) -> Tensor:
        """V of each token of the responses [batch, longest response], as predicted in the step that took it.

        `window_values` [batch, time].
        """
        starts = torch.tensor(self.window_starts)[:, None]
        places = torch.arange(int(self.response_lengths.max()))
        is_earlier = places < starts
        values = window_values.new_zeros(is_earlier.shape)
        values[is_earlier] = torch.cat(self.earlier_values)
        values[(places < self.response_lengths[:, None]) & ~is_earlier] = window_values[self.in_windows()]
        return values

    def window_part(self, index: int, padded: Tensor) -> Tensor:
        """The row's own entries [n] of a [batch, time] tensor."""
        return padded[index, : self.window_length(index)]

    def in_windows(self) -> Tensor:
        """[batch, time] bool: the rows' own entries of such tensors, those of tokens that were not sampled, too."""
        lengths = self.response_lengths - torch.tensor(self.window_starts)
        return torch.arange(self.response_mask.shape[1]) < lengths[:, None]

    def first(self, num_rows: int) -> "Sampled":
        """The first rows alone."""
        if num_rows == self.num_rows:
            return self
        return Sampled(**{name: column[:num_rows] for name, column in self.as_columns().items()})

    def as_columns(self) -> dict[str, Any]:
        """The fields by name, for a checkpoint."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def of_columns(cls, columns: Mapping[str, Any]) -> "Sampled":
        """The inverse of `as_columns`; in checkpoints of earlier releases every token was sampled."""
        if "is_sampled" in columns:
            return cls(**columns)
        lengths = columns["response_lengths"]
        all_sampled = [torch.ones(length, dtype=torch.bool) for length in lengths.tolist()]
        return cls(**columns, is_sampled=all_sampled, has_full_windows=torch.ones_like(lengths, dtype=torch.bool))


@dataclass(frozen=True, slots=True)
class Estimates:
    """What the value model says of the windows, and what follows; [batch, time]."""

    values: Tensor  # V(s_t), before the step's update
    raw_advantages: Tensor  # EGAE
    advantages: Tensor  # whitened and clamped; 0 outside policy_mask
    policy_mask: Tensor  # bool: tokens that train the policy
    value_mask: Tensor  # [batch, longest response] bool: tokens that train the value model, of all windows
    num_too_old: int  # tokens left out because their weights were over max_token_lag steps older, or newer
    old_logprobs: Tensor | None = None  # under the policy before the update, where the estimator needed them

    def first(self, num_rows: int) -> "Estimates":
        """Those of the first rows alone; `num_too_old` stays that of all."""
        if num_rows == len(self.values):
            return self
        columns = {field.name: getattr(self, field.name) for field in fields(self)}
        cut: dict[str, Any] = {name: x[:num_rows] for name, x in columns.items() if isinstance(x, Tensor)}
        return replace(self, **cut)


def flat_places(rows: Sequence[int], lengths: Sequence[int], *, time: int) -> Tensor:
    """Where the first so many entries of each of these rows lie in a [batch, time] tensor, for `Tensor.take` [n]."""
    counts = numpy.array(lengths, dtype=numpy.int64)
    ends = counts.cumsum()
    firsts = numpy.array(rows, dtype=numpy.int64) * time - (ends - counts)
    return torch.from_numpy(numpy.repeat(firsts, counts) + numpy.arange(counts.sum()))


def gather(rows: Sequence[Rollout]) -> Sampled:
    """The rows of a step; a finished row must have its score."""
    scores = torch.tensor([_score(row) for row in rows])
    is_sampled = [memoryview(row.is_sampled()) for row in rows]
    return Sampled(
        token_ids=[_tensor(row.prompt.token_ids + row.response_tokens, numpy.int64) for row in rows],
        prompt_lengths=[len(row.prompt.token_ids) for row in rows],
        window_starts=[row.window_start for row in rows],
        earlier_values=[_tensor(row.values, numpy.float32) for row in rows],
        is_sampled=[_tensor(of_row, numpy.bool_) for of_row in is_sampled],
        response_mask=_windows(rows, is_sampled, numpy.bool_),
        rollout_logprobs=_windows(rows, [memoryview(row.rollout_logprobs) for row in rows], numpy.float32),
        token_versions=_windows(rows, [memoryview(row.token_versions) for row in rows], numpy.int64),
        is_finished=torch.tensor([row.is_finished for row in rows]),
        scores=scores,
        rewards=scores,
        response_lengths=torch.tensor([len(row.response_tokens) for row in rows]),
        has_full_windows=torch.tensor([not (row.has_short_windows or row.num_not_sampled) for row in rows]),
    )


def _windows(rows: Sequence[Rollout], of_responses: Sequence[memoryview], dtype: type[numpy.generic]) -> Tensor:
    """The windows' entries [batch, time] of the whole responses'."""
    lengths = numpy.array([row.num_window_tokens for row in rows])
    is_in_window = numpy.arange(lengths.max()) < lengths[:, None]
    padded = numpy.zeros(is_in_window.shape, dtype)
    windows = [numpy.asarray(of_row[row.window_start :]) for of_row, row in zip(of_responses, rows, strict=True)]
    padded[is_in_window] = numpy.concatenate(windows)
    return torch.from_numpy(padded)


def _tensor(numbers: "array[Any] | memoryview", dtype: type[numpy.generic]) -> Tensor:
    """A copy; the rollout's arrays grow."""
    return torch.from_numpy(numpy.array(numbers, dtype=dtype))


def _score(row: Rollout) -> float:
    if not row.is_finished:
        return 0.0
    assert row.score is not None, "a finished row is trained only with its score"
    return row.score


def with_overlong_penalty(sampled: Sampled, algorithm: "AlgorithmSection", *, max_response_length: int) -> Sampled:
    """The same rows with less reward for finished responses that end close to the limit, where that is configured."""
    if not algorithm.overlong_buffer_length:
        return sampled
    penalties = overlong_penalty(
        sampled.response_lengths,
        max_response_length=max_response_length,
        buffer_length=algorithm.overlong_buffer_length,
        max_penalty=algorithm.overlong_penalty_factor,
    )
    return replace(sampled, rewards=sampled.scores + torch.where(sampled.is_finished, penalties, 0.0))


def joined(parts: Sequence[Sampled]) -> Sampled:
    """The rows of all parts in one, in this order."""
    if len(parts) == 1:
        return parts[0]
    columns = {field.name: [getattr(part, field.name) for part in parts] for field in fields(Sampled)}
    return Sampled(**{name: _joined_column(column) for name, column in columns.items()})


def _joined_column(column: list[Any]) -> Any:
    """Lists and [batch] tensors end to end; [batch, time] tensors padded to the longest window first."""
    if isinstance(column[0], list):
        return [entry for part in column for entry in part]
    if column[0].ndim == 1:
        return torch.cat(column)
    length = max(part.shape[1] for part in column)
    return torch.cat([torch.nn.functional.pad(part, (0, length - part.shape[1])) for part in column])
