"""The value model's part of a step: every token of the responses that finished in it, against the system's targets."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from learner.algorithm import losses
from learner.models.passes.outputs import ValueModel, token_values
from learner.models.passes.packing import PackedBatch
from learner.step.estimation.experience import Estimates, Sampled
from learner.step.measurements.metrics import Metrics, PartialMeans
from learner.step.system import System
from learner.step.updates.optimization import Optimization, mini_batches

if TYPE_CHECKING:  # what computes runs where no configuration library is installed
    from tppo.config.schema import CriticSection

TOKEN_WEIGHTS = {"row_mean": losses.row_mean_weights, "token_mean": losses.token_mean_weights}


def train(
    value_model: ValueModel,
    optimization: Optimization,
    sampled: Sampled,
    estimates: Estimates,
    *,
    system: System,
    section: "CriticSection",
    seed: str,
) -> Metrics:
    """Update the value model; without a finished row it, its optimizer and its schedule stay untouched.

    `seed` deals the rows to the mini-batches.
    """
    means = PartialMeans()
    finished = estimates.rows_with_returns()
    for rows in mini_batches(finished, count=section.ppo_mini_batches, epochs=section.ppo_epochs, seed=seed):
        targets = _Targets.of(rows, sampled, estimates, system, section)
        of_rows = [sampled.row_from(index, 0) for index in rows]
        division = value_model.divided(of_rows, max_tokens=section.max_tokens_per_microbatch)
        passes = [_backward(value_model, batch, targets, section) for batch in division.batches]
        loss = 0.0
        for of_loss, clip_fraction, num_tokens in division.numbers_of_passes(passes).tolist():
            loss += of_loss
            means.add({"critic/vf_clipfrac": clip_fraction}, weight=num_tokens)
        update = optimization.update()
        means.add({"critic/vf_loss": loss, "critic/grad_norm": update.grad_norm, "critic/lr": update.lr}, weight=1)
    return {**means.values(), "critic/num_skipped_updates": optimization.num_skipped}


@dataclass(frozen=True, slots=True)
class _Targets:
    """A mini-batch's tokens: one tensor per row, in the mini-batch's order."""

    returns: list[Tensor]
    old_values: list[Tensor]
    value_mask: list[Tensor]
    weights: list[Tensor]

    @classmethod
    def of(
        cls, rows: Sequence[int], sampled: Sampled, estimates: Estimates, system: System, section: "CriticSection"
    ) -> "_Targets":
        """What the system and the configuration make of the rows."""
        mask = estimates.value_mask[list(rows)]
        weights = TOKEN_WEIGHTS[section.loss_aggregation](mask)
        lengths = [int(sampled.response_lengths[index]) for index in rows]
        return cls(
            returns=system.value_targets(sampled, estimates, rows),
            old_values=[sampled.response_values(index, estimates.values) for index in rows],
            value_mask=[of_row[:length] for of_row, length in zip(mask, lengths, strict=True)],
            weights=[of_row[:length] for of_row, length in zip(weights, lengths, strict=True)],
        )


def _backward(value_model: ValueModel, batch: PackedBatch, targets: _Targets, section: "CriticSection") -> Tensor:
    """Backward pass of one micro-batch: its part of the mini-batch's loss, its clip fraction and number of tokens."""
    values = token_values(value_model, batch)

    def flat(per_row: Sequence[Tensor]) -> Tensor:
        return torch.cat([per_row[0][:0], *(per_row[index] for index in batch.row_indices)]).to(values.device)

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
