"""The compared systems' formulas as their papers have them: sums and products written out, one row at a time."""

from math import prod

import torch
from torch import Tensor


def deltas(values: list[float], score: float) -> list[float]:
    """delta_t = r_t + V_{t+1} - V_t of a whole response, gamma 1, the score at its last token."""
    following = [*values[1:], 0.0]
    length = len(values)
    return [following[t] - values[t] + (score if t == length - 1 else 0.0) for t in range(length)]


def gae(values: list[float], score: float, lam: float) -> list[float]:
    found = deltas(values, score)
    return [sum(lam ** (k - t) * found[k] for k in range(t, len(found))) for t in range(len(found))]


def lambda_returns(values: list[float], score: float, lam: float) -> list[float]:
    """The mixture of n-step returns: V_{t+n} for each n that stays within the response, then the score."""
    length, returns = len(values), []
    for t in range(length):
        within = [(1 - lam) * lam ** (n - 1) * values[t + n] for n in range(1, length - t)]
        returns.append(sum(within) + lam ** (length - t - 1) * score)
    return returns


def vtrace(values: list[float], score: float, lam: float, traces: list[float]) -> list[float]:
    """A_t = sum over k of lam^k c_{t+1} ... c_{t+k} delta_{t+k}."""
    found = deltas(values, score)
    length = len(found)
    return [
        sum(lam ** (k - t) * prod(traces[t + 1 : k + 1]) * found[k] for k in range(t, length)) for t in range(length)
    ]


def pessimistic_mean(ratios: list[Tensor], clipped: list[Tensor], advantages: list[list[float]]) -> Tensor:
    """Mean over all tokens of max(-A rho, -A rho_clipped)."""
    terms = [
        torch.maximum(-torch.tensor(of_row) * ratio, -torch.tensor(of_row) * held)
        for ratio, held, of_row in zip(ratios, clipped, advantages, strict=True)
    ]
    return torch.cat(terms).mean()
