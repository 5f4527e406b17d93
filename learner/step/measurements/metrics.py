"""The numbers of one training step, under verl's names where it has one; docs/metrics.md explains each."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from learner.algorithm import diagnostics
from learner.step.estimation.experience import Estimates, Sampled

Metrics = dict[str, float | int | None]


class PartialMeans:
    """Weighted means of numbers that come in parts, one part per micro-batch or update."""

    def __init__(self) -> None:
        self._sums: defaultdict[str, float] = defaultdict(float)
        self._weights: defaultdict[str, float] = defaultdict(float)

    def add(self, part: Mapping[str, float], *, weight: float) -> None:
        """Another part with its weight."""
        for name, value in part.items():
            self._sums[name] += weight * value
            self._weights[name] += weight

    def values(self) -> Metrics:
        """The means; None where nothing had weight."""
        return {name: self._sums[name] / weight if weight else None for name, weight in self._weights.items()}


def sampled_metrics(sampled: Sampled, policy_version: int, *, max_response_length: int) -> Metrics:
    """What the rows of the step look like."""
    mask = sampled.response_mask
    lag = (policy_version - sampled.token_versions)[mask].float()
    finished = sampled.is_finished
    lengths = sampled.response_lengths[finished].float()
    scores = sampled.scores[finished]
    return {
        "reward/mean": _mean(scores),
        "reward/std": float(scores.std()) if len(scores) > 1 else None,
        "reward/overlong_penalty": _mean((sampled.rewards - sampled.scores)[finished]),
        "response_length/mean": _mean(lengths),
        **_percentiles("response_length", lengths, (10, 50, 90)),
        "response_length/max": int(lengths.max()) if len(lengths) else None,
        "response_length/clip_ratio": _mean((lengths >= max_response_length).float()),
        "response/finished_fraction": _mean(finished.float()),
        "policy_lag/mean": _mean(lag),
        "policy_lag/max": int(lag.max()) if len(lag) else None,
        "tokens/window": int(mask.sum()),
        "tokens/not_sampled": sum(map(sampled.window_length, range(sampled.num_rows))) - int(mask.sum()),
    }


def estimate_metrics(sampled: Sampled, estimates: Estimates) -> Metrics:
    """What the value model says of the rows, and the advantages before they were scaled."""
    mask, finished = sampled.response_mask, sampled.is_finished
    counted = estimates.policy_mask
    top_weight = float(diagnostics.top_percent_weight(estimates.advantages, counted))
    row_share = float(diagnostics.largest_row_share(estimates.advantages, sampled.rollout_logprobs, counted))
    num_policy_tokens, num_value_tokens = int(counted.sum()), int(estimates.value_mask.sum())
    return {
        "critic/values/mean": _mean(estimates.values[mask]),
        "critic/advantages/mean": _mean(estimates.raw_advantages[counted]),
        "critic/advantages/unfinished_mean": _mean(estimates.raw_advantages[counted & ~finished[:, None]]),
        "critic/advantages/unfinished_mean_whitened": _mean(estimates.advantages[counted & ~finished[:, None]]),
        "actor/top_percent_weight": None if math.isnan(top_weight) else top_weight,
        "actor/row_share/max": None if math.isnan(row_share) else row_share,
        "tokens/policy_mask": num_policy_tokens,
        "tokens/policy_mask_fraction": num_policy_tokens / max(1, int(mask.sum())),
        "tokens/value_mask": num_value_tokens,
        "tokens/value_mask_fraction": num_value_tokens / max(1, int(sampled.num_sampled().sum())),
        "tokens/too_old": estimates.num_too_old,
    }


def mismatch_metrics(old_logprobs: Tensor, rollout_logprobs: Tensor) -> Metrics:
    """How far the learner's probabilities of the trained tokens [n] lie from those that the engine sampled with."""
    everywhere = torch.ones_like(old_logprobs, dtype=torch.bool)
    gap = diagnostics.probability_gap(old_logprobs, rollout_logprobs, everywhere)
    return {
        "training/rollout_probs_diff_mean": float(gap.mean),
        "training/rollout_probs_diff_max": float(gap.largest),
        "training/rollout_kl": float(gap.kl),
    }


def _percentiles(name: str, values: Tensor, percents: Sequence[int]) -> Metrics:
    shares = torch.tensor(percents) / 100
    numbers = values.quantile(shares).tolist() if values.numel() else [None] * len(percents)
    return {f"{name}/p{percent}": number for percent, number in zip(percents, numbers, strict=True)}


def _mean(values: Tensor) -> float | None:
    return float(values.mean()) if values.numel() else None
