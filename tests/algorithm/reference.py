"""The formulas once more, in another style: explicit sums over Python floats, one response at a time, no recursion."""

from collections.abc import Sequence


def temporal_difference(
    rewards: Sequence[float], values: Sequence[float], t: int, *, gamma: float, value_after_end: float
) -> float:
    next_value = values[t + 1] if t + 1 < len(values) else value_after_end
    return rewards[t] + gamma * next_value - values[t]


def advantages_by_double_sum(
    rewards: Sequence[float], values: Sequence[float], *, gamma: float, gae_lambda: float, value_after_end: float
) -> list[float]:
    """A_t = sum over k of (gamma lambda)^k delta_{t+k}."""
    num_tokens = len(values)
    return [
        sum(
            (gamma * gae_lambda) ** k
            * temporal_difference(rewards, values, t + k, gamma=gamma, value_after_end=value_after_end)
            for k in range(num_tokens - t)
        )
        for t in range(num_tokens)
    ]


def value_after_window(values: Sequence[float], *, is_finished: bool) -> float:
    """The paper's boundary: nothing follows an end, and a cut's next value is taken to be the last one known."""
    return 0.0 if is_finished or not values else values[-1]


def advantages_of_row(
    rewards: Sequence[float], values: Sequence[float], *, is_finished: bool, gamma: float, gae_lambda: float
) -> list[float]:
    return advantages_by_double_sum(
        rewards,
        values,
        gamma=gamma,
        gae_lambda=gae_lambda,
        value_after_end=value_after_window(values, is_finished=is_finished),
    )


def returns_by_sum(rewards: Sequence[float], *, gamma: float) -> list[float]:
    """R_t = sum over k >= t of gamma^(k-t) r_k."""
    return [sum(gamma ** (k - t) * rewards[k] for k in range(t, len(rewards))) for t in range(len(rewards))]


def n_step_return(
    rewards: Sequence[float], values: Sequence[float], t: int, n: int, *, gamma: float, value_after_end: float
) -> float:
    """G_t^(n) = r_t + ... + gamma^(n-1) r_{t+n-1} + gamma^n V(s_{t+n})."""
    known = sum(gamma**k * rewards[t + k] for k in range(n))
    next_value = values[t + n] if t + n < len(values) else value_after_end
    return known + gamma**n * next_value


def lambda_return(
    rewards: Sequence[float],
    values: Sequence[float],
    t: int,
    *,
    gamma: float,
    gae_lambda: float,
    value_after_end: float,
) -> float:
    """(1 - lambda) sum over k < m - 1 of lambda^k G^(k+1), plus lambda^(m-1) G^(m), where m tokens are left."""
    num_left = len(values) - t

    def g(n: int) -> float:
        return n_step_return(rewards, values, t, n, gamma=gamma, value_after_end=value_after_end)

    mixed = (1 - gae_lambda) * sum(gae_lambda**k * g(k + 1) for k in range(num_left - 1))
    return float(mixed + gae_lambda ** (num_left - 1) * g(num_left))


def clipped_objective(ratio: float, advantage: float, *, clip_low: float, clip_high: float, dual_clip: float) -> float:
    """J of one token, by cases: a positive advantage is capped above, a negative one below and by the dual clip."""
    if advantage >= 0:
        return -advantage * min(ratio, 1 + clip_high)
    return -advantage * min(max(ratio, 1 - clip_low), dual_clip)
