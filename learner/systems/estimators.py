"""Advantages, value targets and log-probabilities of a step's rows, as several systems compute them."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from learner.algorithm import egae
from learner.algorithm.rewards import terminal_rewards
from learner.models.outputs import Policy, token_logprobs
from learner.models.packing import pack, pad_rows, unpack
from learner.step.experience import Estimates, Sampled
from tppo.config import Config

ValueTargets = Callable[[Sampled, Estimates, Sequence[int], Config], list[Tensor]]


def gae_lambda(sampled: Sampled, config: Config) -> float | Tensor:
    """The policy's lambda: one number, or one for each row [batch] that follows from its length."""
    options = config.algorithm
    if options.lam != "length_adaptive":
        return options.lam
    lengths = egae.effective_lengths(
        sampled.response_lengths, sampled.is_finished, window_length=config.run.window_length
    )
    return egae.length_adaptive_lambda(lengths, alpha=options.lam_alpha, floor=options.lam_floor)


def fixed_lambda(config: Config) -> float:
    """The one lambda of PPO and its kin."""
    lam = config.algorithm.lam
    assert isinstance(lam, float), "the configuration refuses any other for these systems"
    return lam


def window_advantages(sampled: Sampled, values: Tensor, boundary_values: Tensor, config: Config) -> Tensor:
    """EGAE of the windows [batch, time]; for whole responses that is GAE."""
    return egae.extended_gae(
        sampled.window_rewards(),
        values,
        sampled.response_mask,
        sampled.is_finished,
        gamma=config.algorithm.gamma,
        gae_lambda=gae_lambda(sampled, config),
        boundary=config.algorithm.boundary,
        bootstrap_values=boundary_values,
    )


def monte_carlo_targets(sampled: Sampled, estimates: Estimates, rows: Sequence[int], config: Config) -> list[Tensor]:
    """R_t: what came in the end, discounted. The value model's lambda is 1, whatever the policy's is (decoupled)."""
    mask = estimates.value_mask[list(rows)]
    rewards = terminal_rewards(sampled.rewards[list(rows)], mask)
    returns = egae.monte_carlo_returns(rewards, mask, gamma=config.algorithm.gamma)
    return [of_row[counted] for of_row, counted in zip(returns, mask, strict=True)]


def lambda_return_targets(sampled: Sampled, estimates: Estimates, rows: Sequence[int], config: Config) -> list[Tensor]:
    """G_t = A_t + V_t, with the policy's own advantages (PPO): one lambda for both models."""
    discounts = {"gamma": config.algorithm.gamma, "gae_lambda": fixed_lambda(config)}
    targets = []
    for index in rows:
        values = sampled.window_part(index, estimates.values)
        in_window = sampled.window_part(index, estimates.raw_advantages) + values
        if sampled.window_starts[index]:
            reward = float(sampled.rewards[index])
            in_window = _with_earlier_tokens(sampled.earlier_values[index], values, in_window, reward, **discounts)
        targets.append(in_window)
    return targets


def _with_earlier_tokens(
    earlier_values: Tensor, values: Tensor, in_window: Tensor, reward: float, *, gamma: float, gae_lambda: float
) -> Tensor:
    """The window's lambda-returns, carried back over the response's earlier tokens.

        G_t = gamma ((1 - lambda) V_{t+1} + lambda G_{t+1})

    A whole response has no earlier tokens; one that an engine cut short has. An empty last window leaves the reward to
    the token before it.
    """
    next_values = [*torch.cat([earlier_values, values]).tolist()[1:], 0.0]
    returns = in_window.tolist() or [reward]
    for t in reversed(range(len(earlier_values) + len(values) - len(returns))):
        returns.insert(0, gamma * ((1.0 - gae_lambda) * next_values[t] + gae_lambda * returns[0]))
    return torch.tensor(returns, dtype=torch.float32)


@torch.no_grad()
def window_logprobs(policy: Policy, sampled: Sampled, config: Config) -> Tensor:
    """log pi of the windows' tokens under the policy as it is [batch, time]."""
    batches = pack(sampled.window_rows(), max_tokens=config.actor.max_tokens_per_microbatch)
    scored = [token_logprobs(policy, batch).cpu() for batch in batches]
    return pad_rows(unpack(batches, scored)).values
