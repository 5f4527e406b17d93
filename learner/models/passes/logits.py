"""Log-probabilities and entropies from hidden states, with the logits of a few tokens at a time.

    log p_t = z_t[y_t] - log sum exp z_t,   z_t = W h_t / temperature

With a vocabulary of 262,144 the float32 logits of 4,096 tokens take 4 GiB, and the backward pass as much again. So
tokens go through the head in chunks: a chunk's logits become one number a token, and are computed again in the
backward pass. Few logits are computed once, in one go.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import Linear
from torch.nn.functional import linear
from torch.utils.checkpoint import checkpoint

from tppo.models import memory_estimate
from tppo.models.device import device_bytes


class TokenScores(NamedTuple):
    """What a policy says about the selected tokens; float32, [n] each, but for the last."""

    logprobs: Tensor
    entropies: Tensor  # without gradient; empty where not requested
    imbalances: Tensor = torch.empty(0)  # [rows], of the routers of a mixture of experts; empty where not requested


def tokens_per_chunk(vocabulary_size: int, device: torch.device) -> int:
    """How many tokens' logits are computed at once."""
    return max(1, memory_estimate.logits_per_chunk(device_bytes(device)) // vocabulary_size)


@dataclass(frozen=True)
class TokenScorer:
    """Scores tokens under logits / temperature; in float32, whatever the model computes in."""

    temperature: float
    with_entropy: bool

    def __call__(self, logits: Tensor, target_ids: Tensor) -> TokenScores:
        """Of logits [n, vocabulary]."""
        logprobs = self._logprobs(logits.float())
        return TokenScores(_chosen(logprobs, target_ids), self._entropies(logprobs.detach()))

    def of_hidden(
        self, hidden: Tensor, target_ids: Tensor, head: Callable[[Tensor], Tensor], *, vocabulary_size: int
    ) -> TokenScores:
        """Of hidden states [n, hidden], through the head."""
        if len(target_ids) * vocabulary_size <= memory_estimate.MAX_LOGITS_KEPT:
            return self(head(hidden), target_ids)
        size = tokens_per_chunk(vocabulary_size, hidden.device)
        if type(head) is Linear and self.temperature > 0:
            through_head: Any = _ThroughLinearHead.apply
            return TokenScores(*through_head(hidden, head.weight, head.bias, target_ids, self, size))

        def score(states: Tensor, targets: Tensor) -> TokenScores:
            return self(head(states), targets)

        return _joined(
            [
                checkpoint(score, *chunk, use_reentrant=False, preserve_rng_state=False)
                for chunk in _chunks(size, hidden, target_ids)
            ]
        )

    def _logprobs(self, logits: Tensor) -> Tensor:
        if self.temperature == 0:  # the likeliest token is certain
            return torch.full_like(logits, -torch.inf).scatter(-1, logits.argmax(-1, keepdim=True), 0.0)
        return torch.log_softmax(logits if self.temperature == 1 else logits / self.temperature, dim=-1)

    def _entropies(self, logprobs: Tensor) -> Tensor:
        if not self.with_entropy:
            return logprobs.new_empty(0)
        return -logprobs.exp().mul_(logprobs).sum(-1)


class _ThroughLinearHead(torch.autograd.Function):
    """Scores of all chunks, for a head that is nothing but a product with its weights.

        d log p_t / d (W h_t) = (onehot(y_t) - softmax(z_t)) / temperature

    Autograd would make a gradient of the weights' size, and an addition to the others, for every chunk; here they are
    gathered in one, in float32.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        target_ids: Tensor,
        scorer: TokenScorer,
        size: int,
    ) -> tuple[Tensor, Tensor]:
        logprobs, normalizers, entropies = [], [], []
        for states, targets in _chunks(size, hidden, target_ids):
            logits = linear(states, weight, bias).float().div_(scorer.temperature)
            normalizer = logits.logsumexp(-1)
            logprobs.append(_chosen(logits, targets) - normalizer)
            normalizers.append(normalizer)
            if scorer.with_entropy:
                entropies.append(normalizer - torch.softmax(logits, dim=-1).mul_(logits).sum(-1))
        ctx.save_for_backward(hidden, weight, bias, target_ids, torch.cat(normalizers))
        ctx.temperature, ctx.size = scorer.temperature, size
        entropy = torch.cat(entropies) if entropies else normalizers[0].new_empty(0)
        ctx.mark_non_differentiable(entropy)
        return torch.cat(logprobs), entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_logprobs: Tensor, _of_entropy: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, target_ids, normalizers = ctx.saved_tensors
        needs_hidden, needs_weight, needs_bias, *_ = ctx.needs_input_grad
        of_hidden: list[Tensor] = []
        of_weight = torch.zeros_like(weight, dtype=torch.float32) if needs_weight else None
        of_bias = torch.zeros_like(bias, dtype=torch.float32) if needs_bias else None
        factors = of_logprobs / ctx.temperature
        for states, targets, normalizer, factor in _chunks(ctx.size, hidden, target_ids, normalizers, factors):
            logits = linear(states, weight, bias).float().div_(ctx.temperature)
            of_logits = logits.sub_(normalizer[:, None]).exp_().mul_(-factor[:, None])
            of_logits.scatter_add_(-1, targets[:, None], factor[:, None])
            if of_bias is not None:
                of_bias += of_logits.sum(0)
            of_logits = of_logits.to(weight.dtype)
            if needs_hidden:
                of_hidden.append(of_logits @ weight)
            if of_weight is not None:
                _add_product(of_weight, of_logits.T, states)
        return (
            torch.cat(of_hidden) if needs_hidden else None,
            None if of_weight is None else of_weight.to(weight.dtype),
            None if of_bias is None else of_bias.to(bias.dtype),
            *(None, None, None),
        )


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """`total`, in float32, plus left @ right."""
    if right.dtype == torch.float32:
        total.addmm_(left, right)
    else:
        total += left @ right


def _chosen(per_token: Tensor, target_ids: Tensor) -> Tensor:
    return per_token.gather(-1, target_ids[:, None]).squeeze(-1)


def _chunks(size: int, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    return zip(*(torch.split(tensor, size) for tensor in tensors), strict=True)


def _joined(parts: list[TokenScores]) -> TokenScores:
    return TokenScores(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))
