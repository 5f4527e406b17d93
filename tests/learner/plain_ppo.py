"""PPO with decoupled GAE as a textbook has it: whole responses, padded, explicit loops; nothing of the learner's code.

Values are fitted to the Monte-Carlo return (lambda = 1), advantages use lambda = max(1 - 1 / (0.05 l), 0.95).
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from learner.rollouts.rollout import Rollout
from tests.learner.tiny_models import padded_logprobs, padded_values


@dataclass
class PlainPPO:
    policy: Any
    value_network: Any
    lr: float
    num_mini_batches: int
    num_epochs: int
    num_steps: int = 0

    def __post_init__(self) -> None:
        options: dict[str, Any] = {"lr": self.lr, "betas": (0.9, 0.95), "weight_decay": 0.0}
        self.policy_optimizer = torch.optim.AdamW(self.policy.parameters(), **options)
        self.value_optimizer = torch.optim.AdamW(self.value_network.parameters(), **options)

    def step(self, rows: Sequence[Rollout]) -> None:
        with torch.no_grad():
            old_logprobs = padded_logprobs(self.policy, rows)
            old_values = padded_values(self.value_network, rows)
        advantages = scaled([gae(values, row.score or 0.0) for values, row in zip(old_values, rows, strict=True)])
        for epoch in range(self.num_epochs):
            for chosen in self._mini_batches(len(rows), epoch):
                loss = value_loss(self.value_network, pick(rows, chosen), pick(old_values, chosen))
                descend(loss, self.value_network, self.value_optimizer)
        for epoch in range(self.num_epochs):
            for chosen in self._mini_batches(len(rows), epoch):
                loss = policy_loss(
                    self.policy, pick(rows, chosen), pick(old_logprobs, chosen), pick(advantages, chosen)
                )
                descend(loss, self.policy, self.policy_optimizer)
        self.num_steps += 1

    def _mini_batches(self, num_rows: int, epoch: int) -> list[list[int]]:
        order = list(range(num_rows))
        if epoch > 0:  # run.seed is 0
            random.Random(f"0/{self.num_steps}/{epoch}").shuffle(order)
        return [
            [row for place, row in enumerate(order) if place % self.num_mini_batches == number]
            for number in range(self.num_mini_batches)
        ]


def pick(items: Sequence[Any], chosen: list[int]) -> list[Any]:
    return [items[index] for index in chosen]


def gae(values: Tensor, score: float) -> list[float]:
    """A_t = sum over k of lambda^k delta_{t+k}, with the score at the last token."""
    length = len(values)
    lam = max(1 - 1 / (0.05 * length), 0.95)
    after = [*values[1:].tolist(), 0.0]
    deltas = [after[t] - values[t].item() + (score if t == length - 1 else 0.0) for t in range(length)]
    return [sum(lam ** (k - t) * deltas[k] for k in range(t, length)) for t in range(length)]


def scaled(advantages: list[list[float]]) -> list[list[float]]:
    """Divided by the standard deviation of all tokens, within +-10."""
    everything = [advantage for of_row in advantages for advantage in of_row]
    mean = sum(everything) / len(everything)
    variance = sum((advantage - mean) ** 2 for advantage in everything) / (len(everything) - 1)
    return [[min(10.0, max(-10.0, advantage / variance**0.5)) for advantage in of_row] for of_row in advantages]


def value_loss(network: Any, rows: list[Rollout], old_values: list[Tensor]) -> Tensor:
    of_rows = []
    for row, values, old in zip(rows, padded_values(network, rows), old_values, strict=True):
        held = torch.minimum(torch.maximum(values, old - 0.5), old + 0.6)
        score = row.score or 0.0
        of_rows.append(torch.maximum((values - score) ** 2, (held - score) ** 2).mean())
    return 0.5 * torch.stack(of_rows).mean()


def policy_loss(network: Any, rows: list[Rollout], old_logprobs: list[Tensor], advantages: list[list[float]]) -> Tensor:
    terms = []
    for logprobs, old, of_row in zip(padded_logprobs(network, rows), old_logprobs, advantages, strict=True):
        for logprob, old_logprob, advantage in zip(logprobs, old, of_row, strict=True):
            ratio = (logprob - old_logprob).exp()
            if advantage >= 0:
                terms.append(-advantage * torch.clamp(ratio, max=1.28))
            else:
                terms.append(-advantage * torch.clamp(torch.clamp(ratio, min=0.8), max=10.0))
    return torch.stack(terms).mean()


def descend(loss: Tensor, network: Any, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    optimizer.step()
