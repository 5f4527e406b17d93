"""Trainers of the compared systems, and rows that two policies sampled."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from learner.models.weights.master_weights import MasterWeights
from learner.rollouts.rollout import Rollout
from tests.learner.builders import a_row
from tests.learner.tiny_models import TinyTrainer, a_network, a_step_config, padded_logprobs, padded_values, weights_of

LAM = 0.9
LIMIT = 18


def a_trainer(system: str, **sections: dict[str, Any]) -> TinyTrainer:
    options: dict[str, Any] = {} if system == "vapo" else {"lam": LAM}
    defaults: dict[str, dict[str, Any]] = {
        "run": {"mode": "lockstep", "algorithm": system, "window_length": LIMIT},
        "algorithm": {"num_ignored_tail_tokens": 0, "advantage_whitening": "none", **options},
    }
    return TinyTrainer(a_step_config(**{n: defaults.get(n, {}) | sections.get(n, {}) for n in defaults | sections}))


def sampled_by(network: Any, rows: list[Rollout]) -> list[Rollout]:
    """The rows with the log-probabilities that the network gives their tokens."""
    with torch.no_grad():
        for row, logprobs in zip(rows, padded_logprobs(network, rows), strict=True):
            row.rollout_logprobs = type(row.rollout_logprobs)("f", logprobs.tolist())
    return rows


def first_rows() -> list[Rollout]:
    """Six tokens in two whole responses, one right and one wrong."""
    rows = [a_row([9, 4, 7, 1], score=1.0, prompt=(4, 9)), a_row([8, 1], score=-1.0)]
    return sampled_by(a_network("policy"), rows)


def second_rows(network: Any, version: int = 1) -> list[Rollout]:
    """Six other tokens, sampled by the policy as it is after the first step."""
    rows = [
        a_row([3, 17, 1], score=1.0, versions=[version] * 3),
        a_row([21, 5, 1], score=0.0, versions=[version] * 3, prompt=(2, 3)),
    ]
    return sampled_by(network, rows)


def values_of(network: Any, rows: list[Rollout]) -> list[list[float]]:
    with torch.no_grad():
        return [of_row.tolist() for of_row in padded_values(network, rows)]


def models_of(trainer: TinyTrainer) -> tuple[Any, Any]:
    """Copies of both models as they are now, which take padded rows."""
    policy, value_network = a_network("policy"), a_network("value")
    policy.load_state_dict(weights_of(trainer.policy.network))
    value_network.load_state_dict(weights_of(trainer.value_model.network))
    return policy, value_network


def score_of(row: Rollout) -> float:
    assert row.score is not None
    return row.score


def rollout_logprobs_of(rows: list[Rollout]) -> list[Tensor]:
    return [torch.tensor(row.rollout_logprobs) for row in rows]


def masters_of(one: TinyTrainer, other: TinyTrainer) -> Iterator[tuple[MasterWeights, MasterWeights]]:
    """Of both models."""
    yield one.policy.weights, other.policy.weights
    yield one.value_model.weights, other.value_model.weights


def assert_same_weights(one: TinyTrainer, other: TinyTrainer) -> None:
    for mine, theirs in masters_of(one, other):
        assert all(torch.equal(master, theirs.masters[name]) for name, master in mine.masters.items())
