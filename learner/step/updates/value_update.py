"""The value model's part of a step: what it says of all rows, then every token of the responses that finished in it,
against the system's targets.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from learner.algorithm import losses
from learner.models.passes.division import Division
from learner.models.passes.outputs import ValueModel, token_and_boundary_values, token_values
from learner.models.passes.packing import PackedBatch, pad_rows
from learner.step.estimation.experience import Estimates, Sampled, flat_places
from learner.step.measurements.metrics import Metrics, PartialMeans
from learner.step.system import System
from learner.step.updates.optimization import Optimization, mini_batches

if TYPE_CHECKING:  # what computes runs where no configuration library is installed
    from tppo.config.schema import CriticSection

TOKEN_WEIGHTS = {"row_mean": losses.row_mean_weights, "token_mean": losses.token_mean_weights}


@dataclass(frozen=True, slots=True)
class BegunPass:
    """A micro-batch of the first mini-batch that already has its forward pass: the same weights said its values."""

    division: Division  # of the mini-batch
    number: int  # of the micro-batch in it
    values: Tensor  # of its responses' tokens, with gradient


@dataclass(frozen=True, slots=True)
class Predicted:
    """What the value model says of a step's rows before any update."""

    values: Tensor  # [batch, time]: V(s_t) of the windows' tokens
    boundary_values: Tensor  # [batch]: V of the state after the last token
    begun: BegunPass | None = None


@dataclass(slots=True)
class ValueUpdate:
    """The value model's passes of one step. `seed` deals the rows to the mini-batches."""

    value_model: ValueModel
    optimization: Optimization
    sampled: Sampled
    section: "CriticSection"
    seed: str
    rows: Sequence[int] = field(init=False)  # that train it

    def __post_init__(self) -> None:
        self.rows = self.sampled.rows_with_returns()

    def predicted(self) -> Predicted:
        """Of all rows, in a pass without gradient, but for one micro-batch: its training begins with this."""
        values: dict[int, Tensor] = {}  # of the windows, by row
        boundaries = torch.zeros(self.sampled.num_rows)
        begun = self._begin(values) if self.value_model.keeps_passes else None
        rows = [row for row in range(self.sampled.num_rows) if row not in values]
        if rows:
            of_rows, of_boundaries = self._without_gradient(rows)
            values.update(zip(rows, of_rows, strict=True))
            boundaries[rows] = of_boundaries
        in_order = [values[row] for row in range(self.sampled.num_rows)]
        return Predicted(pad_rows(in_order).values, boundaries, begun)

    def _begin(self, values: dict[int, Tensor]) -> BegunPass | None:
        """The forward pass of the first mini-batch's largest micro-batch; a finished row has no value after its end."""
        rows = next(self._mini_batches(), [])
        if not rows:
            return None
        division = self._divided(rows)
        batches = division.batches
        number = max(range(len(batches)), key=lambda number: sum(batches[number].row_lengths))
        found = token_values(self.value_model, batches[number])
        of_rows = torch.split(found.detach().cpu(), list(batches[number].num_selected))
        for place, of_row in zip(batches[number].row_indices, of_rows, strict=True):
            values[rows[place]] = of_row[self.sampled.window_starts[rows[place]] :]
        return BegunPass(division, number, found)

    @torch.no_grad()
    def _without_gradient(self, rows: Sequence[int]) -> tuple[list[Tensor], Tensor]:
        of_windows = [self.sampled.row_from(row, self.sampled.window_starts[row]) for row in rows]
        division = self.value_model.divided(of_windows, max_tokens=self.section.max_tokens_per_microbatch)
        of_tokens, after_last = [], []
        for batch in division.batches:
            values, boundary = token_and_boundary_values(self.value_model, batch)
            of_tokens.append(values)
            after_last.append(boundary[: len(batch.row_indices)])
        return division.of_rows(of_tokens), division.numbers_of_rows(after_last)

    def train(self, estimates: Estimates, system: System, begun: BegunPass | None) -> Metrics:
        """Update; without a finished row the model, its optimizer and its schedule stay untouched."""
        means = PartialMeans()
        of_step = _TargetsOfStep.of(self.sampled, estimates, system)
        for rows in self._mini_batches():
            targets = of_step.of_rows(rows, self.section)
            division, passes, loss = begun.division if begun else self._divided(rows), [], 0.0
            for number, batch in enumerate(division.batches):
                is_begun = begun is not None and begun.number == number
                values = begun.values if begun and is_begun else token_values(self.value_model, batch)
                passes.append(_backward(values, batch, targets, self.section))
            begun = None
            for of_loss, clip_fraction, num_tokens in division.numbers_of_passes(passes).tolist():
                loss += of_loss
                means.add({"critic/vf_clipfrac": clip_fraction}, weight=num_tokens)
            update = self.optimization.update()
            means.add({"critic/vf_loss": loss, "critic/grad_norm": update.grad_norm, "critic/lr": update.lr}, weight=1)
        return {**means.values(), "critic/num_skipped_updates": self.optimization.num_skipped}

    def _mini_batches(self) -> Iterator[Sequence[int]]:
        section = self.section
        return mini_batches(self.rows, count=section.ppo_mini_batches, epochs=section.ppo_epochs, seed=self.seed)

    def _divided(self, rows: Sequence[int]) -> Division:
        of_responses = [self.sampled.row_from(row, 0) for row in rows]
        return self.value_model.divided(of_responses, max_tokens=self.section.max_tokens_per_microbatch)


@dataclass(frozen=True, slots=True)
class _Targets:
    """What the tokens of a mini-batch's responses are trained on, [rows, longest response]."""

    returns: Tensor
    old_values: Tensor
    value_mask: Tensor
    weights: Tensor


@dataclass(frozen=True, slots=True)
class _TargetsOfStep:
    """The same of all rows of the step, [batch, longest response]; those without returns hold anything."""

    returns: Tensor
    old_values: Tensor
    value_mask: Tensor

    @classmethod
    def of(cls, sampled: Sampled, estimates: Estimates, system: System) -> "_TargetsOfStep":
        """What the system makes of the rows."""
        return cls(
            returns=system.value_targets(sampled, estimates),
            old_values=sampled.response_values(estimates.values),
            value_mask=estimates.value_mask,
        )

    def of_rows(self, rows: Sequence[int], section: "CriticSection") -> _Targets:
        """Those of a mini-batch, with the weights that the configuration gives its tokens."""
        chosen = torch.tensor(rows)
        mask = self.value_mask[chosen]
        return _Targets(
            returns=self.returns[chosen],
            old_values=self.old_values[chosen],
            value_mask=mask,
            weights=TOKEN_WEIGHTS[section.loss_aggregation](mask),
        )


def _backward(values: Tensor, batch: PackedBatch, targets: _Targets, section: "CriticSection") -> Tensor:
    """Backward pass of one micro-batch: its part of the mini-batch's loss, its clip fraction and number of tokens."""
    places = flat_places(batch.row_indices, batch.num_selected, time=targets.value_mask.shape[1])

    def flat(padded: Tensor) -> Tensor:
        return padded.take(places).to(values.device)

    result = losses.value_loss(
        values,
        flat(targets.old_values),
        flat(targets.returns),
        flat(targets.value_mask),
        clip_low=_bound(section.cliprange_value_low),
        clip_high=_bound(section.cliprange_value_high),
        token_weights=flat(targets.weights),
    )
    result.loss.backward()  # type: ignore[no-untyped-call]
    return torch.tensor([float(result.loss.detach()), float(result.clip_fraction), len(values)], dtype=torch.float64)


def _bound(clip_range: float | Literal["none"]) -> float:
    return math.inf if clip_range == "none" else clip_range
