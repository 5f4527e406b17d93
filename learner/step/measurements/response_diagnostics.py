"""What the responses that finish in a step show of the values that their tokens were given along the way.

Only a finished response has a return. So a window that was cut is judged when its response has finished: the values
stored in the window's own step stand against the score that came in the end. Explained by docs/metrics.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from learner.algorithm import diagnostics, egae
from learner.algorithm.rewards import terminal_rewards
from learner.rollouts.rollout import Rollout
from learner.step.estimation.estimators import Estimators
from learner.step.estimation.experience import Estimates, Sampled
from learner.step.measurements.metrics import Metrics

EXPLAINED_VARIANCES = (
    "critic/vf_explained_var",
    "critic/vf_explained_var_cut",
    # by position in the response, as shares of max_response_length
    "critic/vf_explained_var_first_eighth",
    "critic/vf_explained_var_second_eighth",
    "critic/vf_explained_var_second_quarter",
    "critic/vf_explained_var_second_half",
)
COSTS_OF_CUTS = (
    "critic/bias_at_cut/mean",
    "critic/bias_at_cut/mean_abs",
    "critic/border_value_jump/mean",
    "critic/border_value_jump/mean_abs",
)


@dataclass(frozen=True, slots=True)
class FinishedResponses:
    """All windows of the responses that finish in a step; [batch, time], time 0 is the response's first token.

    Tokens that were not sampled are False in `mask`.
    """

    values: Tensor  # of each token in the step that took it
    rewards: Tensor
    returns: Tensor
    mask: Tensor  # bool
    is_cut: Tensor  # bool: the token's window was not the last
    row_indices: Tensor  # [batch], in the step

    @classmethod
    def of(cls, sampled: Sampled, estimates: Estimates, *, gamma: float) -> "FinishedResponses | None":
        """None when no response with a token finished."""
        rows = torch.nonzero(estimates.value_mask.any(dim=1)).flatten()
        if not len(rows):
            return None
        longest = int(sampled.response_lengths[rows].max())
        mask = estimates.value_mask[rows, :longest]
        rewards = terminal_rewards(sampled.rewards[rows], mask)
        window_starts = torch.tensor(sampled.window_starts)[rows]
        return cls(
            values=sampled.response_values(estimates.values)[rows, :longest],
            rewards=rewards,
            returns=egae.monte_carlo_returns(rewards, mask, gamma=gamma),
            mask=mask,
            is_cut=mask & (torch.arange(longest) < window_starts[:, None]),
            row_indices=rows,
        )

    def of_rows(self, is_chosen: Tensor) -> "FinishedResponses":
        """Those rows [batch] alone."""
        return FinishedResponses(**{field.name: getattr(self, field.name)[is_chosen] for field in fields(self)})


@torch.no_grad()
def metrics(sampled: Sampled, estimates: Estimates, *, estimators: Estimators, max_response_length: int) -> Metrics:
    """Explained variances, and what the cuts cost; None where nothing finished, or nothing of it was cut."""
    finished = FinishedResponses.of(sampled, estimates, gamma=estimators.algorithm.gamma)
    if finished is None:
        return dict.fromkeys(EXPLAINED_VARIANCES + COSTS_OF_CUTS)
    has_borders = sampled.has_full_windows[finished.row_indices] & finished.is_cut.any(dim=1)
    regular = finished.of_rows(has_borders)
    gae_lambda = estimators.gae_lambda(sampled)
    of_regular = gae_lambda[regular.row_indices] if isinstance(gae_lambda, Tensor) else gae_lambda
    return {
        **_explained_variances(finished, max_response_length),
        **_costs_of_cuts(regular, of_regular, estimators),
    }


def prefix_age(rows: Sequence[Rollout], policy_version: int) -> Metrics:
    """Steps since the oldest token before the window was sampled, over the rows that have such tokens."""
    ages = [age for row in rows if (age := row.prefix_age(policy_version)) is not None]
    return {
        "prefix_age/mean": sum(ages) / len(ages) if ages else None,
        "prefix_age/max": max(ages, default=None),
    }


def _explained_variances(finished: FinishedResponses, max_response_length: int) -> Metrics:
    positions = torch.arange(finished.mask.shape[1]).expand_as(finished.mask)
    columns = (finished.values, finished.returns, finished.mask, finished.is_cut, positions)
    values, returns, mask, is_cut, positions = (column[finished.mask] for column in columns)  # without the padding
    by_cut = diagnostics.explained_variance_by_cut(values, returns, mask, is_cut=is_cut)
    limit = max_response_length
    by_position = diagnostics.explained_variance_by_position(
        values,
        returns,
        mask,
        positions=positions,
        boundaries=[limit // 8, limit // 4, limit // 2],
    )
    numbers = [by_cut.finished, by_cut.cut, *by_position]
    return {
        name: None if number.isnan() else float(number)
        for name, number in zip(EXPLAINED_VARIANCES, numbers, strict=True)
    }


def _costs_of_cuts(finished: FinishedResponses, gae_lambda: float | Tensor, estimators: Estimators) -> Metrics:
    """Bias over the tokens that the ignored tail leaves in the policy's loss; jumps over all borders.

    Of responses that were cut, whose borders are `window_length` apart.
    """
    if not len(finished.row_indices):
        return dict.fromkeys(COSTS_OF_CUTS)
    window_length, algorithm = estimators.window_length, estimators.algorithm
    place_in_window = torch.arange(finished.values.shape[1]) % window_length
    is_trained = finished.is_cut & (place_in_window < window_length - algorithm.num_ignored_tail_tokens)
    bias = diagnostics.bias_at_cut(
        finished.rewards,
        finished.values,
        finished.mask,
        window_length=window_length,
        gamma=algorithm.gamma,
        gae_lambda=gae_lambda,
        boundary=algorithm.boundary,
    )[is_trained]
    jump = diagnostics.border_value_jump(finished.values, finished.mask, window_length=window_length)
    of_tokens = [float(bias.mean()), float(bias.abs().mean())] if len(bias) else [None, None]
    numbers = [*of_tokens, float(jump.mean), float(jump.mean_absolute)]
    return dict(zip(COSTS_OF_CUTS, numbers, strict=True))
