"""Statistics over the tokens that count, and the whitening of advantages as separate, named steps.

`whiten_full` is the usual choice for PPO. In T-PPO it has a side effect: a cut row's advantages lie near zero and a
finished row's near its score, so subtracting the batch's mean pays cut rows when most finished ones failed.
`scale_only` divides by the standard deviation and leaves the sign of each advantage alone.
"""

import math

import torch
from torch import Tensor

VARIANCE_EPSILON = 1e-8  # inside the root: a batch of equal advantages gives zeros, not a division by zero


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean of `x` where the mask is True; 0 when it is True nowhere."""
    return torch.where(mask, x, 0.0).sum() / mask.sum().clamp(min=1)


def masked_variance(x: Tensor, mask: Tensor) -> Tensor:
    """Unbiased variance of `x` where the mask is True; NaN for fewer than two entries, which have none."""
    num_entries = mask.sum()
    squared_distances = torch.where(mask, x - masked_mean(x, mask), 0.0).square().sum()
    return torch.where(num_entries >= 2, squared_distances / (num_entries - 1).clamp(min=1), math.nan)


def whiten_full(advantages: Tensor, mask: Tensor) -> Tensor:
    """Advantages with mean 0 and variance 1 over the mask, 0 elsewhere; unchanged for fewer than two tokens."""
    if mask.sum() < 2:
        return without_whitening(advantages, mask)
    centred = advantages - masked_mean(advantages, mask)
    return scale_only(centred, mask)


def scale_only(advantages: Tensor, mask: Tensor) -> Tensor:
    """Advantages with variance 1 and their mean scaled alike; 0 elsewhere; unchanged for fewer than two tokens."""
    if mask.sum() < 2:
        return without_whitening(advantages, mask)
    inverse_deviation = torch.rsqrt(masked_variance(advantages, mask) + VARIANCE_EPSILON)
    return torch.where(mask, advantages * inverse_deviation, 0.0)


def without_whitening(advantages: Tensor, mask: Tensor) -> Tensor:
    """Advantages as they are over the mask, 0 elsewhere."""
    return torch.where(mask, advantages, 0.0)


def clamp_advantages(advantages: Tensor, *, limit: float = 10.0) -> Tensor:
    """Advantages within [-limit, limit], so that one outlier cannot own the step."""
    return advantages.clamp(min=-limit, max=limit)


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """1 - Var(returns - values) / Var(returns) over the mask: 1 is perfect, 0 no better than a constant.

    NaN where it is not defined: fewer than two tokens, or returns that are all alike.
    """
    values, returns = values[mask], returns[mask]
    if len(returns) < 2:
        return returns.new_full((), math.nan)
    variance, unexplained = returns.var(), (returns - values).var()
    return torch.where(variance > 0, 1.0 - unexplained / variance, math.nan)
