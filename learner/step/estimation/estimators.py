"""Advantages and value targets of a step's rows, as several systems compute them."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from learner.algorithm import egae
from learner.step.estimation.experience import Estimates, Sampled

if TYPE_CHECKING:  # what computes runs where no configuration library is installed
    from tppo.config.schema import AlgorithmSection


@dataclass(frozen=True, slots=True)
class Estimators:
    """The formulas of `learner.algorithm` under one configuration."""

    algorithm: "AlgorithmSection"
    window_length: int

    def gae_lambda(self, sampled: Sampled) -> float | Tensor:
        """The policy's lambda: one number, or one for each row [batch] that follows from its length."""
        if self.algorithm.lam != "length_adaptive":
            return self.algorithm.lam
        lengths = egae.effective_lengths(sampled.num_sampled(), sampled.is_finished, window_length=self.window_length)
        return egae.length_adaptive_lambda(lengths, alpha=self.algorithm.lam_alpha, floor=self.algorithm.lam_floor)

    @property
    def fixed_lambda(self) -> float:
        """The one lambda of PPO and its kin."""
        lam = self.algorithm.lam
        assert isinstance(lam, float), "the configuration refuses any other for these systems"
        return lam

    def window_advantages(self, sampled: Sampled, values: Tensor, boundary_values: Tensor) -> Tensor:
        """EGAE of the windows [batch, time]; for whole responses that is GAE."""
        return egae.extended_gae(
            sampled.window_rewards(),
            values,
            sampled.response_mask,
            sampled.is_finished,
            gamma=self.algorithm.gamma,
            gae_lambda=self.gae_lambda(sampled),
            boundary=self.algorithm.boundary,
            bootstrap_values=boundary_values,
        )

    def lambda_return_targets(self, sampled: Sampled, estimates: Estimates) -> Tensor:
        """G_t = A_t + V_t [batch, longest response], with the policy's own advantages (PPO): one lambda for both.

        Rows without returns have them in their windows alone.
        """
        in_windows = estimates.raw_advantages + estimates.values
        targets = sampled.response_values(in_windows)
        for index in sampled.rows_with_returns():
            if start := sampled.window_starts[index]:
                is_sampled = sampled.is_sampled[index]
                known = torch.cat([sampled.earlier_values[index], sampled.window_part(index, estimates.values)])
                returns = self._with_earlier_tokens(
                    known[is_sampled],
                    sampled.window_part(index, in_windows)[is_sampled[start:]],
                    reward=float(sampled.rewards[index]),
                )
                targets[index, : len(known)] = known.masked_scatter(is_sampled, returns)
        return targets

    def _with_earlier_tokens(self, values: Tensor, in_window: Tensor, *, reward: float) -> Tensor:
        """The window's lambda-returns, carried back over the response's earlier tokens, of those that were sampled.

            G_t = gamma ((1 - lambda) V_{t+1} + lambda G_{t+1})

        A whole response has no earlier tokens; one that was cut short has. A last window without a sampled token leaves
        the reward to the token before it.
        """
        gamma, gae_lambda = self.algorithm.gamma, self.fixed_lambda
        next_values = [*values.tolist()[1:], 0.0]
        returns = in_window.tolist() or [reward]
        for t in reversed(range(len(values) - len(returns))):
            returns.insert(0, gamma * ((1.0 - gae_lambda) * next_values[t] + gae_lambda * returns[0]))
        return torch.tensor(returns, dtype=torch.float32)
